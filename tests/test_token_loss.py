"""Proves that the tokens at both ends are those with the highest and the lowest mean loss."""

import numpy as np
import pytest

from pipeline.corpus.new_tokenizers import byte_tokenizer
from pipeline.evaluation.perplexity import Score
from pipeline.evaluation.token_loss import LEAST_COUNT, MOST_TOKENS, hardest_and_easiest

TOKENIZER = byte_tokenizer()


def score(counts: dict[int, int], means: dict[int, float]) -> Score:
    """A score of bytes that come so often, with these mean losses."""
    nats, targets = np.zeros(257), np.zeros(257, dtype=np.int64)
    for token, count in counts.items():
        targets[token], nats[token] = count, count * means[token]
    return Score(float(nats.sum()), int(targets.sum()), nats[:1], targets[:1], nats, targets)


def test_both_ends_are_sorted_and_share_no_token() -> None:
    ids = range(97, 123)
    means = {n: float((n * 7) % 26) for n in ids}
    ends = hardest_and_easiest(score(dict.fromkeys(ids, 20), means), TOKENIZER)
    hardest, easiest = ([row["loss"] for row in ends[end]] for end in ("hardest", "easiest"))
    assert hardest == sorted(means.values(), reverse=True)[:MOST_TOKENS]
    assert easiest == sorted(means.values())[:MOST_TOKENS]
    few = hardest_and_easiest(score(dict.fromkeys(range(97, 102), 20), means), TOKENIZER)
    shown = [row["text"] for row in few["hardest"] + few["easiest"]]
    assert sorted(shown) == ["a", "b", "c", "d", "e"]


def test_a_token_that_comes_too_rarely_is_left_out() -> None:
    counts = {97: LEAST_COUNT, 98: LEAST_COUNT - 1, 99: 500}
    ends = hardest_and_easiest(score(counts, {97: 3.0, 98: 9.0, 99: 1.0}), TOKENIZER)
    assert ends["least_count"] == LEAST_COUNT
    assert [(row["text"], row["count"]) for row in ends["hardest"]] == [("a", 10)]


def test_a_short_text_still_has_its_commonest_tokens() -> None:
    ends = hardest_and_easiest(score({97: 2, 98: 1}, {97: 3.0, 98: 4.0}), TOKENIZER)
    assert ends["least_count"] == 2
    assert [row["text"] for row in ends["hardest"]] == ["a"]
    assert ends["easiest"] == []


@pytest.mark.parametrize(("token", "text"), [(0xE2, "\\xe2"), (10, "\n"), (256, "")])
def test_every_token_has_a_text(token: int, text: str) -> None:
    ends = hardest_and_easiest(score({token: 10}, {token: 1.0}), TOKENIZER)
    assert ends["hardest"][0] == {"id": token, "text": text, "count": 10, "loss": 1.0}
