"""A tokenizer as the tokenizer.json of Hugging Face's `tokenizers`, which gives the same ids.

One difference is theirs: the text "<|endoftext|>" in a document is one special token there, and
ordinary text here.
"""

from typing import Any

from pipeline.corpus.tokenizers import END_OF_TEXT, GPT2_PATTERN, Tokenizer, to_characters

_GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def to_hf_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The value of a tokenizer.json that `tokenizers.Tokenizer.from_file` opens.

    `transformers.PreTrainedTokenizerFast(tokenizer_file=...)` opens it too.
    """
    definition = tokenizer.to_json()
    model: dict[str, Any] = {"type": "BPE", "merges": [], "byte_fallback": False}
    decoder: dict[str, Any] = {**_GPT2_SPLIT, "type": "ByteLevel", "use_regex": True}
    if tokenizer.kind == "char":
        # every character is its own token, an unknown one its bytes
        characters = definition["characters"]
        tokens = [*characters, *(f"<0x{byte:02X}>" for byte in range(256))]
        model |= {"vocab": {token: n for n, token in enumerate(tokens)}, "byte_fallback": True}
        pre_tokenizer = None
        decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    else:
        tokens = [to_characters(tokenizer.token_bytes(n)) for n in range(tokenizer.vocab_size)]
        model["vocab"] = {token: n for n, token in enumerate(tokens) if token}
        model["merges"] = definition.get("merges") or _merges(model["vocab"])
        pre_tokenizer = _pre_tokenizer(definition.get("pattern"))
    end_of_text = {
        "id": tokenizer.eot_id,
        "content": END_OF_TEXT,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    model["vocab"][END_OF_TEXT] = tokenizer.eot_id
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end_of_text],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _merges(vocab: dict[str, int]) -> list[str]:
    """Every way to make a token of two others, in the order of the tokens' ids: tiktoken's rule."""
    return [
        f"{token[:cut]} {token[cut:]}"
        for token in sorted(vocab, key=vocab.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]


def _pre_tokenizer(pattern: str | None) -> dict[str, Any]:
    if pattern == GPT2_PATTERN:  # built in
        return {**_GPT2_SPLIT, "use_regex": True}
    byte_level = {**_GPT2_SPLIT, "use_regex": False}
    if pattern is None:  # each byte by itself
        return byte_level
    # Oniguruma reads `$` as a line's end and {1,3}+ as "one or more times"
    pattern = pattern.replace("$", r"\z").replace("{1,3}+", "{1,3}")
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}
