"""A sweep's record, reports/sweeps/NAME.json: the one source of its table, page and figures.

It is taken once from DVC's records of the experiments, like a benchmark: commits and seconds are
in it, and in no other tracked result. Everything drawn from it is the same bytes again in any
clone, where the experiments themselves may be gone.
"""

import json
from collections.abc import Sequence
from statistics import mean
from typing import Any

from pipeline.errors import ReportError
from pipeline.paths import SWEEPS
from pipeline.storage import read_json

SEED = "train.seed"
VAL_TEXT = (  # settings by which val is another text, of one corpus too
    "corpus.text_field",
    "corpus.errors",
    "prepare.split_by",
    "prepare.val_fraction",
    "prepare.test_fraction",
)
KEYS = {"sweep", "description", "baseline", "all_with", "varied", "runs"}  # of a record
Record = dict[str, Any]
Run = dict[str, Any]
Group = tuple[dict[str, Any], list[Run]]  # settings but the seed, and the runs of all seeds


def read_record(name: str) -> Record:
    """reports/sweeps/NAME.json; raises ReportError where there is none."""
    path = SWEEPS / f"{name}.json"
    if not path.is_file():
        there = ", ".join(recorded()) or "none yet"
        raise ReportError(f"{path}: not found; allowed: a sweep that has run ({there})")
    remedy = f"run `python -m pipeline sweep table {name}`"
    record: Record = read_json(path, ReportError, remedy)
    if record.get("sweep") != name or not record.keys() >= KEYS:
        raise ReportError(f"{path}: not the record of a sweep {name}; {remedy}")
    return record


def recorded() -> list[str]:
    """The names of all sweeps that have a record."""
    return sorted(path.stem for path in SWEEPS.glob("*.json"))


def score(run: Run) -> float:
    """What runs are compared by: bits per byte of val, lower is better. Test is only reported."""
    value: float = run["val"]["bits_per_byte"]
    return value


def finished(record: Record) -> list[Run]:
    """The runs that have numbers of their own."""
    return [run for run in record["runs"] if run["state"] == "done"]


def groups(record: Record) -> list[Group]:
    """The finished runs that differ in nothing but their seed, the best mean score first."""
    by_settings: dict[str, Group] = {}
    for run in finished(record):
        settings = {key: value for key, value in run["settings"].items() if key != SEED}
        by_settings.setdefault(json.dumps(settings), (settings, []))[1].append(run)
    return sorted(by_settings.values(), key=lambda group: mean(map(score, group[1])))


def compares(record: Record) -> bool:
    """Whether all finished runs were scored on one and the same val text."""
    texts = {
        (run.get("corpus", {}).get("sha256"), *(run["settings"].get(key) for key in VAL_TEXT))
        for run in finished(record)
    }
    return len(texts) < 2


def best_name(record: Record) -> str | None:
    """The best run's name; None where none is done, or they do not compare."""
    return best_run(record)["name"] if finished(record) and compares(record) else None


def best_run(record: Record) -> Run:
    """The best run of the best group; raises ReportError where there is none."""
    found = groups(record)
    if not found:
        raise ReportError(f"sweep {record['sweep']}: no run of it is done")
    if not compares(record):
        raise ReportError(
            f"sweep {record['sweep']}: its runs' val texts differ, so none is the best; "
            "`dvc exp apply NAME` takes over one of them"
        )
    return min(found[0][1], key=score)


def shown(value: Any) -> str:
    """A setting's value as people write it: a word as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def short_names(keys: Sequence[str]) -> list[str]:
    """`train.lr` -> `lr`, where no other key ends so."""
    last = [key.split(".")[-1] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
