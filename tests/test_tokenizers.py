"""Any Unicode round-trips; BPE does what two independent implementations do; JSON restores all."""

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import regex
import rustbpe
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from real_ranks import real_tokenizer
from test_hf import published_pattern
from transformers import GPT2TokenizerFast

from pipeline.corpus import tokenizers
from pipeline.corpus.new_tokenizers import LONGEST_WORD, byte_tokenizer, char_tokenizer, train_bpe
from pipeline.corpus.ranks import tiktoken_encoding
from pipeline.corpus.readers import document_pieces
from pipeline.corpus.tokenizers import (
    END_OF_TEXT,
    GPT2_PATTERN,
    GPT4_PATTERN,
    Tokenizer,
    from_json,
    gpt2_tokenizer,
    load,
)
from pipeline.errors import CorpusError, TokenFileError

TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness,\nit was the epoch of belief, it was the epoch of incredulity: 1859!\n\n"
    "'We'll see,' she'd said; they're 12345 naïve cafés…\r\n\tit was the season of Light.\n"
)
BPE = train_bpe([TEXT], 400)
SMALL_GPT2 = gpt2_tokenizer(BPE.to_json()["merges"])  # GPT-2's pattern, other merges
KINDS = [BPE, SMALL_GPT2, char_tokenizer([TEXT]), byte_tokenizer()]

# what the patterns treat apart: letters, digits, marks, apostrophes, every kind of whitespace
tricky = st.text(
    alphabet="abSé漢ſ1²½'’.,!_- \t\n\r\x0b\x1c\x85\xa0\u2028\u3000\u0301😀", max_size=40
)


def each_kind() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tokenizer", KINDS, ids=lambda tokenizer: tokenizer.kind)


@each_kind()
@given(text=st.text() | tricky | st.just(TEXT))
def test_any_unicode_round_trips(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(n) for n in ids) == text.encode()
    assert tokenizer.eot_id not in ids


@each_kind()
def test_end_of_text_is_the_last_id_and_never_comes_from_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.eot_id == tokenizer.vocab_size - 1
    assert tokenizer.token_bytes(tokenizer.eot_id) == b""
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.eot_id not in ids
    assert tokenizer.decode([*ids, tokenizer.eot_id]) == "a<|endoftext|>b<|endoftext|>"


@each_kind()
def test_every_id_has_its_own_bytes(tokenizer: Tokenizer) -> None:
    table = [tokenizer.token_bytes(n) for n in range(tokenizer.vocab_size)]
    if tokenizer.kind == "char":  # an ASCII character of the text has also its fallback byte
        table = table[: -256 - 1]
    assert len(set(table)) == len(table)


@each_kind()
def test_half_a_character_decodes_to_the_replacement_character(tokenizer: Tokenizer) -> None:
    first = next(n for n in range(tokenizer.vocab_size) if tokenizer.token_bytes(n) == b"\xf0")
    assert tokenizer.decode([first]) == "\ufffd"


@each_kind()
def test_json_alone_restores_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    restored = load(tmp_path / "tokenizer.json")
    assert restored.to_json() == tokenizer.to_json()
    assert (restored.kind, restored.vocab_size, restored.sha256) == (
        tokenizer.kind,
        tokenizer.vocab_size,
        tokenizer.sha256,
    )
    assert restored.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


@each_kind()
def test_a_changed_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    value = json.loads(json.dumps(tokenizer.to_json()))
    key = "merges" if "merges" in value else "characters"
    value[key] = value[key][:-1] + (["a a"] if key == "merges" else "é")
    path.write_text(json.dumps(value))
    with pytest.raises(TokenFileError, match=r"tokenizer\.json: found sha256 .* it states"):
        load(path)


def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(TokenFileError, match="not found; run `dvc repro prepare`"):
        load(path)
    broken = {'{"kind": "bpe", "mer': "JSON", "[]": "an object", "{}": "a tokenizer"}
    for content, what in {**broken, '"text"': "an object"}.items():
        path.write_text(content)
        with pytest.raises(TokenFileError, match=rf"tokenizer\.json: not {what} "):
            load(path)
    unknown = tokenizers.sha256_json({"kind": "words"})
    with pytest.raises(TokenFileError, match="found 'words'; allowed: gpt2, bpe, char, byte, "):
        from_json({"kind": "words", "sha256": unknown})


def test_characters_outside_the_train_text_fall_back_to_bytes() -> None:
    tokenizer = char_tokenizer(["ba", "ab€"])
    assert tokenizer.vocab_size == 3 + 256 + 1
    assert tokenizer.encode("ab€").tolist() == [0, 1, 2]
    assert tokenizer.encode("aéb").tolist() == [0, 3 + 0xC3, 3 + 0xA9, 1]


def test_byte_ids_are_the_bytes() -> None:
    assert byte_tokenizer().encode("aé").tolist() == list("aé".encode())
    assert byte_tokenizer().vocab_size == 257


# BPE against independent implementations


def test_merges_are_the_most_frequent_pair_each_time() -> None:
    words = [
        [bytes([byte]) for byte in word.encode()] for word in regex.findall(GPT4_PATTERN, TEXT)
    ]
    ours = [BPE.token_bytes(n) for n in range(256, BPE.eot_id)]
    for token in ours:
        counts = Counter(pair for word in words for pair in pairwise(word))
        most = max(counts.values())
        merged = [
            pair for pair, count in counts.items() if count == most and b"".join(pair) == token
        ]
        assert merged, f"{token!r} is not among the pairs that occur {most} times"
        for word in words:
            n = 0
            while n < len(word) - 1:
                if (word[n], word[n + 1]) == merged[0]:
                    word[n : n + 2] = [token]
                n += 1


def test_merges_are_rustbpes_where_no_two_pairs_are_equally_frequent() -> None:
    # (pairs that tie, the two take in different order)
    counts = {"ab": 17, "abc": 9, "abcd": 5, "ef": 11, "efg": 7, "efgh": 3, "ij": 2, "ijk": 4}
    text = "".join(f"{word}\n" * count for word, count in counts.items())
    ours = train_bpe([text], 300)
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter([text]), ours.vocab_size - 1)
    ranks = sorted(peer.get_mergeable_ranks(), key=lambda entry: entry[1])
    tokens = [ours.token_bytes(n) for n in range(256, ours.eot_id)]
    assert tokens == [bytes(token) for token, _ in ranks[256:]]
    assert len(tokens) == 8


def test_training_depends_on_the_text_alone() -> None:
    pieces = [piece.text for piece in document_pieces([TEXT], 16)]
    assert len(pieces) > 10
    assert train_bpe(pieces, 400).to_json() == BPE.to_json()
    assert train_bpe(reversed(pieces), 400).to_json() == BPE.to_json()


def test_ctrl_c_ends_training_before_all_text_is_read() -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for _ in range(4000):
            read += 1
            if read == 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield TEXT * 20

    with pytest.raises(KeyboardInterrupt):
        train_bpe(texts(), 300)
    assert read < 4000


def test_a_vocabulary_that_the_text_cannot_fill_is_smaller() -> None:
    assert train_bpe(["ab ab"], 4096).vocab_size == 256 + 2 + 1


def test_the_patterns_are_the_published_ones() -> None:
    assert tiktoken_ext.openai_public.r50k_pat_str == GPT2_PATTERN
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(["a"]), 256)
    assert peer.get_pattern() == GPT4_PATTERN


def test_gpt2_gives_the_published_ids() -> None:
    tokenizer = real_tokenizer("gpt2")
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (50257, 50256)
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    assert tokenizer.encode("!\x00 ").tolist() == [0, 188, 220]
    assert tokenizer.decode(range(50256)).startswith("!")
    assert from_json(tokenizer.to_json()).encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


def splits_of(pattern: str) -> list[tiktoken.Encoding]:
    """A pattern as it is published and as it is run, with a token for every pair of bytes.

    The pairs' ranks are shuffled, so that which bytes of a piece pair up tells where it begins.
    """
    pairs = [bytes(pair) for pair in product(range(256), repeat=2)]
    random.Random(0).shuffle(pairs)
    tokens = [bytes([byte]) for byte in range(256)] + pairs
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return [
        tiktoken.Encoding("split", pat_str=each, mergeable_ranks=ranks, special_tokens={})
        for each in (pattern, tokenizers.faster(pattern))
    ]


PATTERNS = {
    "gpt2": GPT2_PATTERN,
    "bpe": GPT4_PATTERN,
    "cl100k_base": published_pattern("cl100k_base"),
    "o200k_base": published_pattern("o200k_base"),
}
SPLITS = {name: splits_of(pattern) for name, pattern in PATTERNS.items()}


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=300)
@given(text=tricky | st.text() | st.sampled_from([TEXT, TEXT.upper()]))
def test_the_faster_pattern_splits_as_the_published_one(name: str, text: str) -> None:
    published, ours = SPLITS[name]
    assert ours.encode_ordinary(text) == published.encode_ordinary(text)


def gpt2_of_transformers(tokenizer: Tokenizer) -> GPT2TokenizerFast:
    """Built from the same ranks."""
    ids = range(tokenizer.vocab_size)
    tokens = [tokenizers.to_characters(tokenizer.token_bytes(n)) or "<|endoftext|>" for n in ids]
    merges = [tuple(merge.split(" ")) for merge in tokenizer.to_json()["merges"]]
    return GPT2TokenizerFast({token: n for n, token in enumerate(tokens)}, merges)


SMALL_PEER = gpt2_of_transformers(SMALL_GPT2)


@given(text=tricky | st.text() | st.sampled_from([TEXT, TEXT.upper()]))
def test_gpt2s_pattern_gives_the_ids_of_gpt2_tokenizer_fast(text: str) -> None:
    assume(END_OF_TEXT not in text)  # special there; hypothesis tries constants of our code
    assert SMALL_GPT2.encode(text).tolist() == SMALL_PEER(text)["input_ids"]


def test_gpt2_gives_the_ids_of_gpt2_tokenizer_fast() -> None:
    tokenizer = real_tokenizer("gpt2")
    peer = gpt2_of_transformers(tokenizer)
    peer.model_max_length = 10**9

    @settings(max_examples=300, deadline=None)
    @given(text=tricky | st.text())
    def same(text: str) -> None:
        assume(END_OF_TEXT not in text)
        assert tokenizer.encode(text).tolist() == peer(text)["input_ids"]

    same()
    code = Path(__file__).read_text(encoding="utf-8").replace("<|endoftext|>", "")
    assert tokenizer.encode(code).tolist() == peer(code)["input_ids"]


@pytest.mark.parametrize(
    ("name", "vocab_size", "eot_id", "hello"),
    [
        ("r50k_base", 50257, 50256, [15496, 995]),
        ("p50k_base", 50281, 50256, [15496, 995]),
        ("cl100k_base", 100277, 100257, [9906, 1917]),
        ("o200k_base", 200019, 199999, [13225, 2375]),
    ],
)
def test_tiktokens_encodings_are_loaded_by_their_names(
    name: str, vocab_size: int, eot_id: int, hello: list[int]
) -> None:
    tokenizer = real_tokenizer(name)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.eot_id) == (name, vocab_size, eot_id)
    assert tokenizer.encode("Hello world").tolist() == hello
    assert from_json(tokenizer.to_json()).encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    if name != "r50k_base":  # tiktoken can open no r50k_base from GPT-2's file
        encoding = tiktoken_encoding(name)
        assert tokenizer.encode(TEXT).tolist() == encoding.encode_ordinary(TEXT)


def test_an_unbroken_run_is_cut_in_training_and_refused_where_no_pattern_takes_it() -> None:
    bpe = train_bpe(["ab" * 5000], 300)
    assert max(len(bpe.token_bytes(n)) for n in range(bpe.vocab_size)) <= LONGEST_WORD
    text = "ab" * 5000
    assert bpe.decode(bpe.encode(text).tolist()) == text
    with pytest.raises(
        CorpusError, match=r"^prepare.tokenizer: found bpe, [^\n]*; allowed: shorter runs"
    ):
        bpe.encode(" " * 2_000_000)
