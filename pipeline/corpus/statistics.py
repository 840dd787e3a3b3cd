"""What the tokens look like, counted while they are written: data/tokens/statistics.json.

    {"document_tokens": {split: {"1": n, "2": n, "4": n, ...}},
     "token_counts": {"ranks": [...], "counts": [...]},
     "frequent": [[text, id, count], ...]}

`document_tokens` counts documents by their length in tokens: key 2^k those of 2^k to 2^(k+1) - 1.
`token_counts` is the train split's frequency at ranks spaced evenly on a logarithmic scale, from
the most frequent token (rank 1) on; `frequent` its most frequent tokens.
"""

from collections import Counter
from typing import Any

import numpy as np

from pipeline.corpus.encoding import Encoded
from pipeline.corpus.splits import SPLITS
from pipeline.corpus.tokenizers import Tokenizer

MOST_FREQUENT = 20
RANKS_SHOWN = 60


class Statistics:
    """Counts of every split's tokens and documents."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)  # of train
        self._lengths: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
        self._open = dict.fromkeys(SPLITS, 0)  # tokens of a document that goes on

    def add(self, part: Encoded) -> None:
        """Take in the next part of its split."""
        if part.split == "train":
            self._counts += np.bincount(part.ids, minlength=len(self._counts))
        for length, is_end in zip(part.lengths, part.ends, strict=True):
            self._open[part.split] += length
            if is_end:
                self._close(part.split)

    def _close(self, split: str) -> None:
        if self._open[split]:
            self._lengths[split][self._open[split].bit_length() - 1] += 1
        self._open[split] = 0

    def to_json(self) -> dict[str, Any]:
        """The file's value."""
        for split in SPLITS:  # a document that the split's end cuts off
            self._close(split)
        order = np.argsort(-self._counts, kind="stable")
        seen = int((self._counts > 0).sum())
        ranks = np.unique(np.geomspace(1, max(seen, 1), RANKS_SHOWN).round().astype(np.int64))
        frequent = [int(n) for n in order[: min(seen, MOST_FREQUENT)]]
        return {
            "document_tokens": {
                split: {str(2**power): lengths[power] for power in sorted(lengths)}
                for split, lengths in self._lengths.items()
            },
            "token_counts": {
                "ranks": ranks.tolist(),
                "counts": self._counts[order[ranks - 1]].tolist(),
            },
            "frequent": [[self._tokenizer.decode([n]), n, int(self._counts[n])] for n in frequent],
        }
