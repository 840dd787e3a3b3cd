"""The baselines are the textbook's: checked by hand on a text small enough."""

import lzma
import math

import numpy as np
import pytest

from pipeline.evaluation.baselines import bigram_bits, uniform_bits, unigram_bits, xz_bits

TRAIN, TEST = np.array([0, 1, 0, 1, 0, 2]), np.array([0, 1, 2, 3])


def test_uniform() -> None:
    assert uniform_bits(10, 8) == 30


def test_unigram_adds_one() -> None:
    p = [4 / 10, 3 / 10, 2 / 10, 1 / 10]
    assert unigram_bits(TRAIN, TEST, 4) == pytest.approx(-sum(math.log2(p[i]) for i in (1, 2, 3)))


def test_bigram_backs_off_to_the_unigram() -> None:
    after_0 = (2 + 2 * 3 / 10) / (3 + 2)  # 0 1 twice of three, two kinds follow 0
    after_1 = (0 + 1 * 2 / 10) / (2 + 1)  # 1 2 never
    after_2 = 1 / 10  # nothing follows 2: the unigram
    bits = -sum(math.log2(p) for p in (after_0, after_1, after_2))
    assert bigram_bits(TRAIN, TEST, 4) == pytest.approx(bits)


def test_xz_after_the_same_text_costs_next_to_nothing() -> None:
    text = np.random.Generator(np.random.PCG64(1)).bytes(4000)
    assert xz_bits(text) == 8 * len(lzma.compress(text, preset=9))
    assert xz_bits(text, after=text) < 0.1 * xz_bits(text)


def test_a_long_text_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.Generator(np.random.PCG64(1))
    train, test = draw.integers(0, 9, 500), draw.integers(0, 9, 101)
    whole = bigram_bits(train, test, 9)
    monkeypatch.setattr("pipeline.evaluation.baselines.PART", 7)
    assert bigram_bits(train, test, 9) == pytest.approx(whole, rel=1e-12)
