"""A tokenizer as the tokenizer.json of Hugging Face's `tokenizers`, which gives the same ids.

One difference is theirs: the text "<|endoftext|>" in a document is one special token there, and
ordinary text here.
"""

import json
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from pipeline.corpus.tokenizers import END_OF_TEXT, GPT2_PATTERN, Tokenizer, to_characters


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
