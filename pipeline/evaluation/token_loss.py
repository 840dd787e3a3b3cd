"""Which tokens of a held-out text cost most, and which cost least."""

from typing import Any

import numpy as np

from pipeline.corpus.tokenizers import Tokenizer
from pipeline.evaluation.perplexity import Score

LEAST_COUNT = 10  # times that a token comes, for its mean to say something
MOST_TOKENS = 12  # at each end


def hardest_and_easiest(score: Score, tokenizer: Tokenizer) -> dict[str, Any]:
    """{"least_count", "hardest", "easiest"}: tokens with their count and mean loss, nats.

    Of the tokens that come at least LEAST_COUNT times, or, in a text too short for that, as often
    as its commonest one. No token is at both ends.
    """
    least = min(LEAST_COUNT, int(score.token_targets.max()))
    ids = np.flatnonzero(score.token_targets >= least)
    means = score.token_nats[ids] / score.token_targets[ids]
    order = np.lexsort((ids, means))  # easiest first
    most = min(MOST_TOKENS, (len(ids) + 1) // 2)
    rows = [
        {
            "id": int(ids[n]),
            "text": tokenizer.token_bytes(int(ids[n])).decode("utf-8", "backslashreplace"),
            "count": int(score.token_targets[ids[n]]),
            "loss": float(means[n]),
        }
        for n in order
    ]
    return {
        "least_count": least,
        "hardest": rows[::-1][:most],
        "easiest": rows[: len(rows) - most][:most],
    }
