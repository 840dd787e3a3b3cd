"""Token-exact: any number of processes and any piece size give the ids of the whole text.

For each pattern that a tokenizer here has (GPT-2's, tiktoken's cl100k_base and o200k_base, the
trained BPE's, none), on English verse, source code, Chinese and Japanese, emoji, long runs of
spaces and newlines, a long line without a space, and text that hypothesis makes.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_ranks import real_tokenizer
from test_hf import small_encoding

from pipeline.corpus.encoding import Job, encoded, jobs, worker_count
from pipeline.corpus.new_tokenizers import byte_tokenizer, char_tokenizer, train_bpe
from pipeline.corpus.readers import Piece, document_pieces
from pipeline.corpus.tokenizers import Tokenizer, gpt2_tokenizer

VERSE = (
    "KING RICHARD.\nMust I do so? And must I ravel out\nMy weav'd-up follies? Gentle "
    "Northumberland,\nIf thy offences were upon record,\n\nWould it not shame thee, in so fair a "
    "troop,\n     To read a lecture of them? 'Tis 1399; they'll say: we're, I'd, she's.\n"
)
CHINESE = (
    "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。\n"
    "古池や、蛙飛びこむ水の音。한국어 문장, 그리고 둘.\n"
)
EMOJI = "👩‍👩‍👧‍👦🏳️‍🌈 smile😀!!!😀😀 a\u0301e\u0308 ✨\n\n✨✨"
SPACES = (
    "a"
    + " " * 3000
    + "b\n"
    + "\n" * 3000
    + "  c \t\t \r\n\r\n d\x0b\x0c\x85\u2028\u3000e"
    + " \n" * 900
)
CODE = Path(__file__).read_text(encoding="utf-8")


def line_without_a_space(length: int) -> str:
    """Letters, digits and punctuation, as in minified code."""
    draw = random.Random(0)
    words = [
        "function",
        "x1",
        "=>",
        "{",
        "return",
        ";",
        "__",
        "'s",
        "3.14159",
        "/",
        "//",
        "漢字",
        "ſ",
    ]
    return "".join(draw.choices(words, k=length // 4))[:length]


TEXTS = {
    "verse": VERSE * 12,
    "code": CODE,
    "chinese": CHINESE * 40,
    "emoji": EMOJI * 60,
    "spaces": SPACES,
    "line": line_without_a_space(9000),
}
ALL = "\n".join(TEXTS.values())
BPE = train_bpe([ALL], 700)
TOKENIZERS: dict[str, Tokenizer] = {
    "bpe": BPE,
    "gpt2": gpt2_tokenizer(BPE.to_json()["merges"]),
    "cl100k_base": small_encoding("cl100k_base"),
    "o200k_base": small_encoding("o200k_base"),
    "char": char_tokenizer([VERSE]),
    "byte": byte_tokenizer(),
}

tricky = st.text(
    alphabet="abSé漢한ſ1²½'’.,;!_-/\"(){}=。， \t\n\r\x0b\x1c\x85\xa0\u2028\u3000\u0301😀",
    max_size=60,
)


def each_tokenizer() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", TOKENIZERS)


def streamed(tokenizer: Tokenizer, text: str, size: int, workers: int, block: int) -> np.ndarray:
    blocks = (text[n : n + block] for n in range(0, len(text), block))
    pieces = (("train", piece) for piece in document_pieces(blocks, size))
    results = encoded(tokenizer, jobs(pieces, size), False, workers)
    return np.concatenate([result.ids for result in results])


@each_tokenizer()
@settings(max_examples=60)
@given(
    text=tricky | st.text(max_size=60) | st.sampled_from([VERSE, CHINESE, EMOJI]),
    size=st.integers(1, 9),
    block=st.integers(1, 9),
)
def test_any_cut_gives_the_ids_of_the_whole(name: str, text: str, size: int, block: int) -> None:
    tokenizer = TOKENIZERS[name]
    ids = streamed(tokenizer, text, size, 1, block)
    assert ids.tolist() == tokenizer.encode(text).tolist()


@each_tokenizer()
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("size", [1, 64, 1000])
def test_each_kind_of_text_in_pieces_gives_the_ids_of_the_whole(
    name: str, kind: str, size: int
) -> None:
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.encode(TEXTS[kind])
    assert streamed(tokenizer, TEXTS[kind], size, 1, 777).tolist() == whole.tolist()


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_gives_the_ids_of_the_whole(workers: int) -> None:
    tokenizer = TOKENIZERS["cl100k_base"]
    ids = streamed(tokenizer, ALL, 1000, workers, 4096)
    assert ids.tobytes() == tokenizer.encode(ALL).astype("<u2").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 1 << 20, 1 << 22])
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "bpe"])
def test_megabytes_of_every_kind_give_the_ids_of_the_whole(
    name: str, size: int, workers: int
) -> None:
    text = ALL * (10_000_000 // len(ALL))
    ids = streamed(TOKENIZERS[name], text, size, workers, 1 << 20)
    assert ids.tobytes() == TOKENIZERS[name].encode(text).astype("<u2").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "bpe"])
def test_fifty_megabytes_without_a_space_give_the_ids_of_the_whole(name: str) -> None:
    text = line_without_a_space(200_000) * 250
    assert " " not in text
    whole = TOKENIZERS[name].encode(text).astype("<u2").tobytes()
    for size in (1 << 10, 1 << 20):
        assert streamed(TOKENIZERS[name], text, size, 2, 1 << 20).tobytes() == whole


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_the_published_encodings_in_pieces_give_the_ids_of_the_whole(name: str) -> None:
    tokenizer = real_tokenizer(name)
    whole = tokenizer.encode(ALL).tolist()
    for size in (1, 1000):
        assert streamed(tokenizer, ALL, size, 1, 4096).tolist() == whole


def test_end_of_text_follows_each_document_and_no_piece() -> None:
    pieces = [Piece("ab", False), Piece("c", True), Piece("d", True)]
    work = [Job("val", pieces)]
    (result,) = encoded(byte_tokenizer(), work, True, 1)
    assert result.ids.tolist() == [*b"abc", 256, *b"d", 256]
    assert (result.split, result.lengths, result.bytes) == ("val", [2, 2, 2], 4)
    (alone,) = encoded(byte_tokenizer(), work, False, 1)
    assert alone.ids.tolist() == [*b"abcd"]


def test_small_documents_go_together_and_each_split_keeps_its_order() -> None:
    pieces = [("train" if n % 3 else "val", Piece(str(n % 10) * 4, True)) for n in range(100)]
    made = list(jobs(pieces, size=40))
    assert all(len(job.pieces) == 10 for job in made[:-2])
    for split in ("train", "val"):
        expected = [piece for name, piece in pieces if name == split]
        assert [piece for job in made if job.split == split for piece in job.pieces] == expected


def test_only_so_many_jobs_are_read_ahead() -> None:
    read = 0

    def endless() -> Iterator[Job]:
        nonlocal read
        while True:
            read += 1
            yield Job("train", [Piece("a", True)])

    results = encoded(byte_tokenizer(), endless(), True, 2)
    for _ in range(10):
        next(results)
    results.close()
    assert read <= 10 + 2 * 3


def test_little_text_is_not_worth_a_process() -> None:
    assert worker_count("auto", 5_000_000) == 1
    assert worker_count(3, 5_000_000) == 3
