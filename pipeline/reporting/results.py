"""What the stages before left behind, read in one place: a report has no other input."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import ReportError
from pipeline.model.weights_files import are_there, weights_sha256
from pipeline.paths import (
    EVALUATION_RUN,
    GENERATED,
    HISTORY,
    META,
    METRICS,
    POSITIONS,
    RUN,
    STATISTICS,
    STRATEGIES,
    TOKEN_LOSSES,
)
from pipeline.storage import read_json


@dataclass(frozen=True)
class Results:
    """The results of one run of fetch, prepare, train and evaluate."""

    meta: dict[str, Any]  # corpus, tokenizer, splits
    statistics: dict[str, Any]  # lengths of documents, frequencies of tokens
    run: dict[str, Any]  # model, runtime, samples during training, why it stopped
    metrics: dict[str, Any]  # val, test, train, baselines
    history: pd.DataFrame  # step, tokens, lr, loss, grad_norm, val_loss (empty between looks)
    positions: pd.DataFrame  # position in the context, mean held-out loss there
    tokens: dict[str, Any]  # the hardest and easiest held-out ones: text, count, mean loss
    generated: list[dict[str, Any]]  # prompt, settings, text, of the finished model
    strategies: list[dict[str, Any]]  # strategy, text: the same prompt and seed
    evaluation: dict[str, Any]  # the runtime that computed metrics, positions, tokens and texts

    @property
    def held_out(self) -> str:
        """The split that the result is read off: val where prepare.test_fraction is 0."""
        return "test" if "test" in self.metrics else "val"


def read_results() -> Results:
    """Read every input of a report; raises ReportError for one that is missing or broken."""
    return Results(
        meta=_read_json(META),
        statistics=_read_json(STATISTICS),
        run=_read_json(RUN),
        metrics=_read_json(METRICS),
        history=_read_csv(HISTORY),
        positions=_read_csv(POSITIONS),
        tokens=_read_json(TOKEN_LOSSES),
        generated=_read_json(GENERATED, list),
        strategies=_read_json(STRATEGIES, list),
        evaluation=_read_json(EVALUATION_RUN),
    )


def refuse_changed_start() -> None:
    """Raise ReportError where train.init_from names a file that is not what the run started from.

    DVC sees this by itself for a file in data/init, but not for one elsewhere.
    """
    start = _read_json(RUN).get("init_from")
    file = Path(start["file"]) if start and start["file"] else None
    if file is not None and are_there(file) and weights_sha256(file) != start["sha256"]:
        raise ReportError(
            f"{file} has changed since train started from it; run `dvc repro --force train`"
        )


def _read_json(path: Path, kind: type = dict) -> Any:
    return read_json(path, ReportError, "run `dvc repro`", kind)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise ReportError(f"{path}: not found; run `dvc repro`") from None
    except ValueError as error:
        raise ReportError(f"{path}: not valid CSV ({error}); run `dvc repro`") from None
    if table.empty:
        raise ReportError(f"{path}: found no row; allowed: one or more; run `dvc repro`")
    return table
