"""inspect shows what the token files hold, and finds what stands in two splits."""

from pathlib import Path

import numpy as np
import pytest
from fresh_project import enter_project, put, set_param
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import duplicates
from pipeline.corpus.duplicates import WINDOW, equal_documents, repeated_windows
from pipeline.corpus.token_stream import ShardedTokens
from pipeline.errors import ParamsError, TokenFileError
from pipeline.fetch import fetch
from pipeline.inspect import inspect
from pipeline.prepare import prepare

DRAW = np.random.default_rng(0)
TRAIN = DRAW.integers(0, 1000, 500).astype(np.uint16)


def test_windows_of_train_are_found_wherever_they_stand() -> None:
    new = DRAW.integers(0, 1000, 3 * WINDOW).astype(np.uint16)
    held_out = np.concatenate([TRAIN[17 : 17 + WINDOW], new, TRAIN[-WINDOW:], TRAIN[:5]])
    assert repeated_windows(TRAIN, held_out) == (2, 5)
    assert repeated_windows(ShardedTokens([TRAIN[:20], TRAIN[20:]]), held_out) == (2, 5)
    changed = TRAIN[17 : 17 + WINDOW].copy()
    changed[9] += 1
    assert repeated_windows(TRAIN, changed) == (0, 1)
    assert repeated_windows(TRAIN[: WINDOW - 1], TRAIN) == (0, len(TRAIN) // WINDOW)
    assert repeated_windows(TRAIN, TRAIN[: WINDOW - 1]) == (0, 0)


@given(st.lists(st.integers(0, 2), min_size=WINDOW, max_size=90))
def test_the_share_is_that_of_a_plain_search(ids: list[int]) -> None:
    train, held_out = np.array(ids[: len(ids) // 2 + 20]), np.array(ids)
    seen = {tuple(train[n : n + WINDOW]) for n in range(len(train) - WINDOW + 1)}
    windows = [tuple(ids[n : n + WINDOW]) for n in range(0, len(ids) - WINDOW + 1, WINDOW)]
    expected = (sum(window in seen for window in windows), len(windows))
    assert repeated_windows(train, held_out) == expected


def test_blocks_of_places_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = np.concatenate([TRAIN[100:228], TRAIN[:64]])
    whole = repeated_windows(TRAIN, held_out)
    monkeypatch.setattr(duplicates, "_AT_ONCE", 64)
    assert repeated_windows(TRAIN, held_out) == whole == (6, 6)


def test_whole_documents_are_compared_and_cut_ones_are_not() -> None:
    first = np.array([1, 2, 9, 3, 9, 4, 5])
    second = np.array([3, 9, 4, 5, 9, 1, 2, 9, 1, 2])
    assert equal_documents(first, second, 9) == 2


def test_it_shows_counts_lengths_frequent_tokens_duplicates_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter_project(tmp_path, monkeypatch)
    with pytest.raises(TokenFileError, match=r"meta\.json: not found; run `dvc repro prepare`$"):
        inspect()
    for n in range(30):
        put(
            f"{n}.txt",
            f"\x1b[31m[b]play {n % 10}[/b] and some words that stand in it. ".encode() * 4,
        )
    set_param("tokenizer", "byte")
    fetch()
    prepare()
    capsys.readouterr()
    inspect(windows=1, length=30, seed=5)
    shown = capsys.readouterr().out
    for part in ("bytes/token", "Documents by length", "128 to 255", "' '", "What stands in two"):
        assert part in shown
    assert "100.00%" in shown
    assert "\x1b" not in shown  # a terminal would obey it
    inspect(windows=1, length=30, seed=5)
    assert capsys.readouterr().out == shown
    inspect(windows=1, length=30, seed=6)
    assert capsys.readouterr().out != shown


def test_outside_the_projects_folder_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"^params\.yaml: not found; run from the project's top"):
        inspect(windows=1, length=8, seed=1)
