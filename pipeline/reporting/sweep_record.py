"""A sweep's record, reports/sweeps/NAME.json: the one source of its table, page and figures.

It is taken once from DVC's records of the experiments, like a benchmark: commits and seconds are
in it, and in no other tracked result. Everything drawn from it is the same bytes again in any
clone, where the experiments themselves may be gone.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from statistics import mean
from typing import Any

from pipeline.errors import ReportError
from pipeline.paths import HISTORY, SWEEPS
from pipeline.reporting.experiments import Experiment, experiments
from pipeline.reporting.revisions import git
from pipeline.storage import read_json

SEED = "train.seed"
Record = dict[str, Any]
Run = dict[str, Any]


def take_record(
    name: str,
    description: str,
    varied: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    baseline: str,
    seconds: Mapping[str, float],
) -> Record:
    """The record of a sweep's runs, {member: its settings}, from DVC's; raises ReportError."""
    found = experiments(baseline)
    runs = [
        _run(member, own, varied, found.get(member), seconds.get(member))
        for member, own in settings.items()
    ]
    own = next(iter(settings.values()))
    changing = [key for key in varied if any(run["settings"][key] != own[key] for run in runs)]
    record = {
        "sweep": name,
        "description": description,
        "baseline": baseline,
        "all_with": {key: value for key, value in own.items() if key not in changing},
        "varied": changing,
        "runs": [{**run, "settings": {k: run["settings"][k] for k in changing}} for run in runs],
    }
    record["runs"] = _sorted(record)
    return record


def _run(
    name: str,
    settings: Mapping[str, Any],
    varied: Sequence[str],
    found: Experiment | None,
    seconds: float | None,
) -> Run:
    run: Run = {"name": name, "settings": {key: settings[key] for key in varied}}
    if found is None:
        return {**run, "state": "not run"}
    for key, value in found.differing(settings).items():
        raise ReportError(
            f"experiment {name}: {key}: found {value!r}; allowed: {settings[key]!r}, as the sweep "
            "sets it; run the sweep again"
        )
    run["state"] = found.state
    if found.state == "failed":
        run["error"] = found.error()
    if found.metrics is None:
        return run
    train = found.metrics["train"]
    for split in ("val", "test"):
        if split in found.metrics:
            scores = found.metrics[split]
            run[split] = {key: scores[key] for key in ("loss", "perplexity", "bits_per_byte")}
    return {
        **run,
        "parameters": train["parameters"],
        "steps": train["steps"],
        "tokens": train["tokens"],
        "seconds": None if seconds is None else round(seconds, 1),
        "commit": found.commit,
        "curve": _curve(found.commit),
    }


def _curve(commit: str) -> list[list[float]]:
    """[step, tokens, val loss] of each look at val."""
    history = git("show", f"{commit}:./{HISTORY.as_posix()}").decode()
    rows = csv.DictReader(StringIO(history))
    return [
        [int(row["step"]), int(row["tokens"]), float(row["val_loss"])]
        for row in rows
        if row["val_loss"]
    ]


def read_record(name: str) -> Record:
    """reports/sweeps/NAME.json; raises ReportError where there is none."""
    path = SWEEPS / f"{name}.json"
    if not path.is_file():
        there = ", ".join(recorded()) or "none yet"
        raise ReportError(f"{path}: not found; allowed: a sweep that has run ({there})")
    record: Record = read_json(path, ReportError, f"run `python -m pipeline sweep table {name}`")
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


def groups(record: Record) -> list[tuple[dict[str, Any], list[Run]]]:
    """The finished runs that differ in nothing but their seed, the best mean score first."""
    by_settings: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run in finished(record):
        settings = {key: value for key, value in run["settings"].items() if key != SEED}
        by_settings.setdefault(json.dumps(settings), (settings, []))[1].append(run)
    return sorted(by_settings.values(), key=lambda group: mean(map(score, group[1])))


def best_run(record: Record) -> Run:
    """The best run of the best group; raises ReportError where none is done."""
    found = groups(record)
    if not found:
        raise ReportError(f"sweep {record['sweep']}: no run of it is done")
    return min(found[0][1], key=score)


def _sorted(record: Record) -> list[Run]:
    """The best first; then those without numbers, in the sweep's order."""
    done = sorted(finished(record), key=score)
    return done + [run for run in record["runs"] if run["state"] != "done"]


def shown(value: Any) -> str:
    """A setting's value as people write it: a word as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def short_names(keys: Sequence[str]) -> list[str]:
    """`train.lr` -> `lr`, where no other key ends so."""
    last = [key.split(".")[-1] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
