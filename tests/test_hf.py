"""The exported tokenizer.json gives our ids in Hugging Face's libraries, and our text back."""

import inspect
import json
import re
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import PreTrainedTokenizerFast

from pipeline.corpus.hf import to_hf_tokenizer_json
from pipeline.corpus.new_tokenizers import (
    byte_tokenizer,
    char_tokenizer,
    tiktoken_tokenizer,
    train_bpe,
)
from pipeline.corpus.tokenizers import END_OF_TEXT, Tokenizer, gpt2_tokenizer

TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness,\nit was the epoch of belief, it was the epoch of incredulity: 1859!\n\n"
    "'We'll see,' she'd said; they're 12345 naïve cafés…\r\n\tit was the season of Light.\n"
)
BPE = train_bpe([TEXT], 400)


def published_pattern(name: str) -> str:
    """The split pattern of one of tiktoken's encodings, from its source."""
    source = inspect.getsource(getattr(tiktoken_ext.openai_public, name))
    alternatives = re.findall(r'r"""(.*?)"""', source)
    assert alternatives
    return "|".join(alternatives)


def small_encoding(name: str) -> Tokenizer:
    """A tiktoken encoding with its own pattern and few tokens: 400 of BPE, a hole, the special."""
    ranks = {BPE.token_bytes(n): n for n in range(BPE.eot_id)}
    special = {"<|endoftext|>": BPE.eot_id + 1}
    pattern = published_pattern(name)
    encoding = tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )
    return tiktoken_tokenizer(encoding)


TOKENIZERS = [
    BPE,
    gpt2_tokenizer(BPE.to_json()["merges"]),
    small_encoding("cl100k_base"),
    small_encoding("o200k_base"),
    char_tokenizer([TEXT]),
    byte_tokenizer(),
]
PEERS = [HuggingFaceTokenizer.from_str(json.dumps(to_hf_tokenizer_json(t))) for t in TOKENIZERS]

tricky = st.text(
    alphabet="abSé漢ſ1²½'’.,!_-/ \t\n\r\x0b\x1c\x85\xa0\u2028\u3000\u0301😀", max_size=40
)


@pytest.mark.parametrize(
    ("tokenizer", "peer"),
    list(zip(TOKENIZERS, PEERS, strict=True)),
    ids=[tokenizer.kind for tokenizer in TOKENIZERS],
)
@given(text=st.text() | tricky | st.sampled_from([TEXT, TEXT.upper()]))
def test_ids_and_text_are_ours(tokenizer: Tokenizer, peer: HuggingFaceTokenizer, text: str) -> None:
    assume(END_OF_TEXT not in text)  # hypothesis knows our constants; the test below has this one
    ids = tokenizer.encode(text).tolist()
    assert peer.encode(text).ids == ids
    assert peer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
def test_end_of_text_is_one_special_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(to_hf_tokenizer_json(tokenizer)), encoding="utf-8")
    peer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|endoftext|>")
    assert peer.eos_token_id == tokenizer.eot_id
    assert len(peer) == len({*range(tokenizer.vocab_size)} - set(_unused(tokenizer)))
    ids = [*tokenizer.encode("a b").tolist(), tokenizer.eot_id]
    assert peer("a b<|endoftext|>")["input_ids"] == ids


def _unused(tokenizer: Tokenizer) -> list[int]:
    return [
        n
        for n in range(tokenizer.vocab_size)
        if not tokenizer.token_bytes(n) and n != tokenizer.eot_id
    ]
