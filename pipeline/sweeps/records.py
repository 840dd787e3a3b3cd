"""The record of a sweep, from DVC's experiments or from disk, and the files drawn from it."""

import json
from pathlib import Path

from pipeline.errors import ReportError
from pipeline.paths import METRICS, SWEEPS
from pipeline.reporting.revisions import Revision, WorkingTree, git, read_lock
from pipeline.reporting.sweep_plots import draw_sweep
from pipeline.reporting.sweep_record import (
    Record,
    Run,
    finished,
    read_record,
    recorded,
    take_record,
)
from pipeline.reporting.sweep_table import CAPTIONS, as_csv, as_page
from pipeline.sweeps.plan import load_plan


def record_of(name: str) -> Record:
    """A sweep's record from DVC's experiments, or the one on disk where they are not here.

    Raises ReportError where that one is of another commit than the runs, of which none is done.
    """
    record = _taken(name)
    if record is None:
        return read_record(name)
    if finished(record) or name not in recorded():
        return record
    kept = read_record(name)
    if kept["baseline"] != record["baseline"]:
        errors = [f" ({run['name']}: {run['error']})" for run in record["runs"] if "error" in run]
        then, now = kept["baseline"][:10], record["baseline"][:10]
        raise ReportError(
            f"sweep {name}: no run from commit {now} is done{''.join(errors[:1])}; "
            f"{SWEEPS}/{name}.json, of commit {then}, stays as it is"
        )
    return kept


def _taken(name: str) -> Record | None:
    """What DVC's records say of the sweep now; None where it did not run in this repository."""
    plan = load_plan(name)
    if plan is None:
        return None
    settings = {member.name: member.settings for member in plan.members}
    return take_record(name, plan.description, plan.varied, settings, plan.baseline, plan.seconds)


def contradicted(record: Record) -> list[str]:
    """The runs of a record that DVC's experiments, where they are still here, do not bear out."""
    now = _taken(record["sweep"])
    then = {run["name"]: run for run in record["runs"]}
    return [
        f"{SWEEPS}/{record['sweep']}.json: {run['name']}"
        for run in (finished(now) if now else [])
        if any(run[key] != then.get(run["name"], {}).get(key) for key in run if key != "seconds")
    ]


def promoted_differs(best: Run) -> str | None:
    """What of the workspace's results is not that of this run; None where nothing is.

    Where the run's experiment is here, the hashes of all that train and evaluate made are
    compared, else the scores of its record.
    """
    if git("cat-file", "-t", best["commit"], check=False):
        made, before = read_lock(WorkingTree()), read_lock(Revision(best["commit"]))
        stages = ("train", "evaluate")
        return next((f"stage {s}" for s in stages if made[s]["outs"] != before[s]["outs"]), None)
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    for split in ("val", "test"):
        for name, value in best.get(split, {}).items():
            if metrics[split][name] != value:
                return f"{split}.{name}"
    return None


def rendered(record: Record, dpi: int) -> dict[Path, bytes]:
    """Every file of a sweep under reports/, the record too."""
    name = record["sweep"]
    figures = draw_sweep(record, dpi)
    texts = {
        "json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
        "csv": as_csv(record),
        "md": as_page(record, [name for name in CAPTIONS if f"{name}.png" in figures]),
    }
    files = {SWEEPS / f"{name}.{ending}": text.encode() for ending, text in texts.items()}
    return {**files, **{SWEEPS / name / figure: data for figure, data in figures.items()}}
