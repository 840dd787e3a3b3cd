"""The three splits are the whole text, once, in order, by exact byte fractions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.readers import Piece
from pipeline.corpus.splits import SPLITS, Survey, split_bounds, survey, text_between
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
    found = survey(pieces)
    first = data.draw(st.integers(0, found.bytes))
    second = data.draw(st.integers(first, found.bytes))
    parts = [
        list(text_between(pieces, start, stop))
        for start, stop in [(0, first), (first, second), (second, found.bytes)]
    ]
    joined = [piece for part in parts for piece in part]
    assert "".join(piece.text for piece in joined) == "".join(texts)
    assert sum(piece.ends_document for piece in joined) == found.documents
    assert all(piece.text for piece in joined)
    size = len("".join(piece.text for piece in parts[0]).encode())
    assert first - 3 <= size <= first  # a cut moves back to a character's start


def test_a_document_that_ends_at_the_cut_ends_before_it() -> None:
    pieces = [Piece("abc", True), Piece("def", True)]
    assert list(text_between(pieces, 0, 3)) == [Piece("abc", True)]
    assert list(text_between(pieces, 3, 6)) == [Piece("def", True)]
    assert list(text_between(pieces, 2, 4)) == [Piece("c", True), Piece("d", False)]


def test_survey_counts_bytes_documents_and_empty_documents() -> None:
    pieces = [Piece("ä", False), Piece("b", True), Piece("", True), Piece("c", True)]
    assert survey(pieces) == Survey(bytes=4, documents=2, empty_documents=1)


def test_bounds_follow_one_another_by_the_fractions() -> None:
    bounds = split_bounds(1000, val_fraction=0.1, test_fraction=0.05)
    assert tuple(bounds) == SPLITS
    assert bounds == {"train": (0, 850), "val": (850, 950), "test": (950, 1000)}
    assert split_bounds(10, 0.0, 0.0) == {"train": (0, 10), "val": (10, 10), "test": (10, 10)}


def test_a_fraction_that_comes_to_nothing_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"prepare\.test_fraction: 0\.01 of 20 bytes"):
        split_bounds(20, 0.1, 0.01)
    with pytest.raises(CorpusError, match="leave nothing to train on"):
        split_bounds(2, 0.4, 0.4)
