"""The three splits are the whole text, once, in order, by exact byte fractions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.readers import Piece
from pipeline.corpus.splits import (
    SPLITS,
    Survey,
    by_document,
    by_stream,
    check_documents,
    document_split,
    split_bounds,
    survey,
)
from pipeline.errors import CorpusError

documents = st.lists(st.text(max_size=12), max_size=6)


def as_pieces(texts: list[str]) -> list[Piece]:
    """Each document as two pieces, where it is long enough."""
    pieces = []
    for text in texts:
        if len(text) > 1:
            pieces += [Piece(text[:1], False), Piece(text[1:], True)]
        else:
            pieces.append(Piece(text, True))
    return pieces


@given(documents, st.data())
def test_the_splits_join_to_the_text_and_every_document_ends_once(
    texts: list[str], data: st.DataObject
) -> None:
    pieces = as_pieces(texts)
    found = survey(pieces, "stream", 0.0, 0.0)
    first = data.draw(st.integers(0, found.text_bytes))
    second = data.draw(st.integers(first, found.text_bytes))
    bounds = {"train": (0, first), "val": (first, second), "test": (second, found.text_bytes)}
    routed = list(by_stream(pieces, bounds))
    assert [SPLITS.index(split) for split, _ in routed] == sorted(
        SPLITS.index(split) for split, _ in routed
    )
    joined = [piece for _, piece in routed]
    assert "".join(piece.text for piece in joined) == "".join(texts)
    assert sum(piece.ends_document for piece in joined) == found.documents
    assert all(piece.text for piece in joined)
    size = len("".join(piece.text for split, piece in routed if split == "train").encode())
    assert first - 3 <= size <= first  # a cut moves back to a character's start


def test_a_document_that_ends_at_the_cut_ends_before_it() -> None:
    pieces = [Piece("abc", True), Piece("def", True)]
    assert list(by_stream(pieces, {"train": (0, 3), "val": (3, 6)})) == [
        ("train", Piece("abc", True)),
        ("val", Piece("def", True)),
    ]
    assert list(by_stream(pieces, {"train": (2, 4), "val": (4, 4)})) == [
        ("train", Piece("c", True)),
        ("train", Piece("d", False)),
    ]


def test_survey_counts_bytes_documents_and_empty_documents() -> None:
    pieces = [Piece("ä", False), Piece("b", True), Piece("", True), Piece("c", True)]
    found = survey(pieces, "stream", 0.1, 0.1)
    assert found == Survey(text_bytes=4, documents=2, empty_documents=1)


def test_bounds_follow_one_another_by_the_fractions() -> None:
    bounds = split_bounds(1000, val_fraction=0.1, test_fraction=0.05)
    assert tuple(bounds) == SPLITS
    assert bounds == {"train": (0, 850), "val": (850, 950), "test": (950, 1000)}
    assert split_bounds(1_115_394, 0.1, 0.0)["train"] == (0, 1_003_854)  # nanoGPT's
    assert split_bounds(10, 0.0, 0.0) == {"train": (0, 10), "val": (10, 10), "test": (10, 10)}


def test_a_fraction_that_comes_to_nothing_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"prepare\.test_fraction: 0\.01 of 20 bytes"):
        split_bounds(20, 0.1, 0.01)
    with pytest.raises(CorpusError, match="leave nothing to train on"):
        split_bounds(2, 0.4, 0.4)


TEXTS = [f"document {n}" for n in range(400)]


def splits_of(texts: list[str]) -> dict[str, str]:
    pieces = as_pieces(texts)
    found = survey(pieces, "document", 0.2, 0.1)
    routed = list(by_document(pieces, found.split_of))
    joined = {"": ""}
    text = ""
    for split, piece in routed:
        text += piece.text
        if piece.ends_document:
            joined[text], text = split, ""
    return joined


def test_a_document_stays_in_its_split_when_others_come_go_or_move() -> None:
    whole = splits_of(TEXTS)
    assert splits_of(TEXTS[:200]).items() <= whole.items()
    assert splits_of(["", *reversed(TEXTS), "more"]).items() >= whole.items()


def test_documents_are_split_by_about_the_fractions_and_equal_ones_alike() -> None:
    found = list(splits_of(TEXTS).values())
    assert 60 < found.count("val") < 100
    assert 25 < found.count("test") < 55
    pieces = as_pieces([TEXTS[7]] * 5)
    assert len(set(survey(pieces, "document", 0.4, 0.3).split_of)) == 1


def test_the_lowest_hashes_are_tests_the_next_vals_and_the_rest_trains() -> None:
    for first, split in ((0x00, "test"), (0x3F, "test"), (0x40, "val"), (0xBF, "val")):
        assert document_split(bytes([first]) + bytes(31), 0.5, 0.25) == split
    for first in (0xC0, 0xFF):
        assert document_split(bytes([first]) + b"\xff" * 31, 0.5, 0.25) == "train"


def test_a_split_that_gets_no_document_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"prepare\.val_fraction: none of 2 documents came"):
        check_documents(bytes([0, 0]), 0.1, 0.0)
    with pytest.raises(CorpusError, match=r"split_by: document: none of 1 documents came into tr"):
        check_documents(bytes([1]), 0.1, 0.0)
    check_documents(bytes([0, 1]), 0.1, 0.0)
