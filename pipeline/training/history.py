"""What a run measured: every step's training loss, and the rows of reports/train.csv.

A row's loss is that step's own, the mean over its micro-steps, in nats per token; val_loss is
empty between evaluations. Numbers are written with all their digits.
"""

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.storage import append_text


@dataclass(frozen=True)
class Row:
    step: int
    tokens: int
    lr: float
    loss: float
    grad_norm: float
    val_loss: float | None


COLUMNS = [field.name for field in fields(Row)]


class History:
    """Losses and rows so far."""

    def __init__(self) -> None:
        self.losses: list[float] = []  # losses[i] is step i + 1's
        self.rows: list[Row] = []

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, as a checkpoint holds them."""
        rows = {name: [getattr(row, name) for row in self.rows] for name in COLUMNS}
        return {"losses": list(self.losses), "rows": rows}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "History":
        history = cls()
        history.losses = list(values["losses"])
        columns = [values["rows"][name] for name in COLUMNS]
        history.rows = [Row(*row) for row in zip(*columns, strict=True)]
        return history

    def to_csv(self) -> str:
        """All rows, as reports/train.csv has them."""
        return _lines([COLUMNS, *map(astuple, self.rows)])

    def append_csv(self, path: Path) -> None:
        """Add the newest row to a file of to_csv, so that a run can be watched."""
        append_text(path, _lines([astuple(self.rows[-1])]))


def _lines(rows: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)  # floats by their repr
    return buffer.getvalue()
