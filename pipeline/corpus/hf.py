"""A tokenizer as the tokenizer.json of Hugging Face's `tokenizers`, which gives the same ids, and
back.

One difference is theirs: the text "<|endoftext|>" in a document is one special token there, and
ordinary text here.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from pipeline.corpus.tokenizers import (
    END_OF_TEXT,
    GPT2_PATTERN,
    OLDER_FILES,
    Tokenizer,
    finish,
    from_json,
    to_characters,
)
from pipeline.errors import TokenFileError
from pipeline.params import MOST_IDS
from pipeline.storage import read_json

NOT_READ = (
    "a tokenizer that this project has no form of; allowed: a byte-level BPE with <|endoftext|> or "
    "<|bos|>, its words by one pattern, as GPT-2's and GPT-4's"
)
BETWEEN_DOCUMENTS = (END_OF_TEXT, "<|bos|>")  # GPT-2's and NanoChat's names of that token


def to_hf_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The value of a tokenizer.json that `tokenizers.Tokenizer.from_file` opens.

    `transformers.PreTrainedTokenizerFast(tokenizer_file=...)` opens it too.
    """
    definition = tokenizer.to_json()
    if tokenizer.kind == "char":
        # every character is its own token, an unknown one its bytes
        tokens = [*definition["characters"], *(f"<0x{byte:02X}>" for byte in range(256))]
        merges = []
        decoder: decoders.Decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        tokens = [to_characters(tokenizer.token_bytes(n)) for n in range(tokenizer.vocab_size)]
        merges = [tuple(merge.split(" ")) for merge in definition.get("merges", ())]
        decoder = decoders.ByteLevel()
    vocab = {token: n for n, token in enumerate(tokens) if token}
    if "tokens" in definition:
        merges = _merges(vocab)
    vocab[END_OF_TEXT] = tokenizer.eot_id
    model = models.BPE(vocab, merges, byte_fallback=tokenizer.kind == "char")
    theirs = HuggingFaceTokenizer(model)
    if tokenizer.kind != "char":
        theirs.pre_tokenizer = _pre_tokenizer(definition.get("pattern"))
    theirs.decoder = decoder
    theirs.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    value: dict[str, Any] = json.loads(theirs.to_str())
    return value


def _merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, in the order of the tokens' ids: tiktoken's rule."""
    return [
        (token[:cut], token[cut:])
        for token in sorted(vocab, key=vocab.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]


def _pre_tokenizer(pattern: str | None) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == GPT2_PATTERN)
    if pattern in (None, GPT2_PATTERN):  # each byte by itself, or built in
        return byte_level
    # Oniguruma reads `$` as a line's end and {1,3}+ as "one or more times"
    split = Regex(pattern.replace("$", r"\z").replace("{1,3}+", "{1,3}"))
    return pre_tokenizers.Sequence([pre_tokenizers.Split(split, "isolated"), byte_level])


def read_tokenizer(path: Path, remedy: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json, of either form; raises TokenFileError.

    Where it is missing, the two files count that Hugging Face's GPT-2s had in its place.
    """
    if not path.is_file() and any(path.with_name(name).is_file() for name in OLDER_FILES):
        return from_hf_tokenizer_json(_from_older(path.parent, remedy), str(path.parent))
    value = read_json(path, TokenFileError, remedy)
    return (
        from_hf_tokenizer_json(value, str(path))
        if "model" in value
        else from_json(value, str(path))
    )


def _from_older(folder: Path, remedy: str) -> dict[str, Any]:
    """The value that tokenizer.json would have."""
    vocab, merges = (folder / name for name in OLDER_FILES)
    tokens = read_json(vocab, TokenFileError, remedy)
    if not merges.is_file():
        raise TokenFileError(f"{merges}: not found; {remedy}")
    lines = merges.read_text("utf-8", errors="replace").split("\n")
    settings, added = (
        read_json(path, TokenFileError, remedy) if path.is_file() else {}
        for path in (folder / "tokenizer_config.json", folder / "added_tokens.json")
    )
    special = {name: tokens[name] for name in BETWEEN_DOCUMENTS if name in tokens} | added
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "added_tokens": [
            {"id": n, "content": name, "special": True, **usual} for name, n in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": bool(settings.get("add_prefix_space")),
            "trim_offsets": True,
        },
        "model": {
            "type": "BPE",
            "vocab": tokens,
            "merges": [line for line in lines if line and not line.startswith("#version")],
        },
    }


def from_hf_tokenizer_json(value: dict[str, Any], where: str = "tokenizer.json") -> Tokenizer:
    """A tokenizer with the ids of Hugging Face's, or a TokenFileError, beginning with `where`.

    Special tokens other than what stands between documents become ids that no text has. That both
    give the same is tried on a text in which every token's stands.
    """
    try:
        theirs = HuggingFaceTokenizer.from_str(json.dumps(value))
        theirs.no_truncation()  # as they were used last
        theirs.no_padding()
        ours = _rebuilt(value)
        text = b"".join(map(ours.token_bytes, range(ours.vocab_size))).decode(errors="ignore")
        for token in value["added_tokens"]:
            text = text.replace(token["content"], " ")
        same = theirs.encode(text, add_special_tokens=False).ids == ours.encode(text).tolist()
    except Exception:  # whatever a foreign file makes of the libraries
        same = False
    if not same:
        raise TokenFileError(f"{where}: found {NOT_READ}")
    return ours


def _rebuilt(value: dict[str, Any]) -> Tokenizer:
    """This project's tokenizer of the same definition; fails in any way where there is none."""
    model, added = value["model"], value["added_tokens"]
    *splits, last = value["pre_tokenizer"].get("pretokenizers", [value["pre_tokenizer"]])
    special = {token["content"]: token["id"] for token in added if token["special"]}
    size = max({**model["vocab"], **special}.values()) + 1
    if (
        len(special) < len(added)  # a text of such a token would be one token there
        or value["normalizer"] is not None
        or model.get("dropout") is not None
        or len(splits) > 1
        or bool(splits) == last.get("use_regex", True)
        or size > MOST_IDS
        or any(to_characters(bytes([n])) not in model["vocab"] for n in range(256))
    ):
        raise ValueError
    table: list[str | None] = [None] * size
    for token, n in model["vocab"].items():
        table[n] = None if token in special else token
    pattern = splits[0]["pattern"]["Regex"] if splits else GPT2_PATTERN
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    ours = finish({"kind": "bpe", "pattern": pattern, "merges": merges})
    if [to_characters(ours.token_bytes(n)) or None for n in range(ours.vocab_size)] == table:
        return ours
    eot_id = next(special[name] for name in BETWEEN_DOCUMENTS if name in special)
    return finish({"kind": "bpe", "pattern": pattern, "eot_id": eot_id, "tokens": table})
