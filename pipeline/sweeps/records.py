"""The record of a sweep, from DVC's experiments or from disk, and the files drawn from it."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.errors import ReportError
from pipeline.paths import HISTORY, METRICS, PROVENANCE, SWEEPS
from pipeline.reporting.grounds import GROUNDS
from pipeline.reporting.revisions import Revision, WorkingTree, git, read_lock
from pipeline.reporting.sweep_plots import draw_sweep
from pipeline.reporting.sweep_record import Record, Run, finished, read_record, recorded, score
from pipeline.reporting.sweep_table import CAPTIONS, as_csv, as_page, is_drawn
from pipeline.storage import parse_json
from pipeline.sweeps.experiments import Experiment, experiments
from pipeline.sweeps.plan import PLANS, Member, Plan, load_plan


def record_of(name: str) -> Record:
    """A sweep's record from DVC's experiments, or the one on disk where they are not here.

    A run that DVC has no more stays as the one on disk has it. Raises ReportError where that one is
    of another commit than the runs, of which none is done.
    """
    record = _taken(name)
    if record is None:
        return read_record(name)
    if name not in recorded():
        return record
    try:
        kept = read_record(name)
    except ReportError:  # as after a merge
        if finished(record):
            return record
        raise
    record = _with_removed(record, kept)
    if finished(record):
        return record
    if kept["baseline"] != record["baseline"]:
        errors = [f" ({run['name']}: {run['error']})" for run in record["runs"] if "error" in run]
        then, now = kept["baseline"][:10], record["baseline"][:10]
        raise ReportError(
            f"sweep {name}: no run from commit {now} is done{''.join(errors[:1])}; "
            f"{SWEEPS}/{name}.json, of commit {then}, stays as it is; delete {PLANS}/{name}.json "
            "to go back to that one"
        )
    return kept


def _with_removed(record: Record, kept: Record) -> Record:
    """The record, with what an older one of the same commit and settings has of runs that are
    gone: `dvc exp remove` takes no result back."""
    if record["baseline"] != kept["baseline"]:
        return record
    before = {run["name"]: run for run in finished(kept)}
    runs = []
    for run in record["runs"]:
        old = before.get(run["name"])
        if run["state"] == "not run" and old is not None:
            settings, then = (
                {**r["all_with"], **s["settings"]} for r, s in ((record, run), (kept, old))
            )
            run = {**old, "settings": run["settings"]} if settings == then else run
        runs.append(run)
    return {**record, "runs": _ordered(runs)}


def _ordered(runs: list[Run]) -> list[Run]:
    """The best first, then those that are not done in the sweep's order."""
    rest = [run for run in runs if run["state"] != "done"]
    return sorted((run for run in runs if run["state"] == "done"), key=score) + rest


def _taken(name: str) -> Record | None:
    """What DVC's records say of the sweep now; None where it did not run in this repository, or
    from a commit that is gone."""
    plan = load_plan(name)
    if plan is None or not git("cat-file", "-t", plan.baseline, check=False):
        return None
    return take_record(plan)


def take_record(plan: Plan) -> Record:
    """The record of a sweep's runs from DVC's, the best first; raises ReportError."""
    found = experiments(plan.baseline)
    runs = [_run(plan, member, found.get(member.name)) for member in plan.members]
    own = plan.members[0].settings
    changing = [key for key in plan.varied if any(r["settings"][key] != own[key] for r in runs)]
    runs = [{**run, "settings": {key: run["settings"][key] for key in changing}} for run in runs]
    return {
        "sweep": plan.name,
        "description": plan.description,
        "baseline": plan.baseline,
        "all_with": {key: value for key, value in own.items() if key not in changing},
        "varied": changing,
        "runs": _ordered(runs),
    }


def _run(plan: Plan, member: Member, found: Experiment | None) -> Run:
    settings, seconds = member.settings, plan.seconds.get(member.name)
    run: Run = {"name": member.name, "settings": {key: settings[key] for key in plan.varied}}
    if found is None:
        return {**run, "state": "not run"}
    for key, value in found.differing(settings).items():
        raise ReportError(
            f"experiment {member.name}: {key}: found {value!r}; allowed: {settings[key]!r}, as the "
            "sweep sets it; run the sweep again"
        )
    run["state"] = found.state
    if found.state == "failed":
        run["error"] = found.error()
    if found.metrics is None:
        return run
    train, corpus = found.metrics["train"], provenance_of(found.commit)["corpus"]
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
        "corpus": {key: corpus[key] for key in ("name", "sha256")},
        "curve": _curve(found.commit),
    }


def provenance_of(commit: str) -> dict[str, Any]:
    """A run's provenance.json."""
    data = git("show", f"{commit}:./{PROVENANCE.as_posix()}")
    found: dict[str, Any] = parse_json(data, PROVENANCE, ReportError, "run the sweep again")
    return found


def _curve(commit: str) -> list[list[float]]:
    """[step, tokens, val loss] of each look at val."""
    history = git("show", f"{commit}:./{HISTORY.as_posix()}").decode()
    rows = csv.DictReader(StringIO(history))
    return [
        [int(row["step"]), int(row["tokens"]), float(row["val_loss"])]
        for row in rows
        if row["val_loss"]
    ]


def contradicted(record: Record) -> list[str]:
    """What a record says that DVC's experiments, where they are still here, do not bear out: runs,
    or what holds for all."""
    now = _taken(record["sweep"])
    if now is None or not finished(now):
        return []
    over = all(run["state"] in ("done", "failed") for run in now["runs"])
    if record["baseline"] != now["baseline"] and not over:  # a newer one that is to go on
        return []
    then = {run["name"]: run for run in record["runs"]}
    unknown = then.keys() - {run["name"] for run in now["runs"]}
    wrong = [key for key in now if key != "runs" and record.get(key) != now[key]]
    wrong += [run["name"] for run in record["runs"] if run["name"] in unknown]
    wrong += [
        run["name"]
        for run in finished(now)
        if {**then.get(run["name"], {}), "seconds": None} != {**run, "seconds": None}
    ]
    return [f"{SWEEPS}/{record['sweep']}.json: {name}" for name in wrong]


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


def drawn_before() -> list[Path]:
    """What there is of files that `rendered` drew, sweeps whose record is gone among them."""
    pages = [path for path in SWEEPS.glob("*.*") if is_drawn(path)]
    names = {path.stem for path in pages}.union(recorded())
    endings = [f"{ground.suffix}.png" for ground in GROUNDS]
    figures = [SWEEPS / n / f"{figure}{e}" for n in names for figure in CAPTIONS for e in endings]
    return sorted([*pages, *filter(Path.is_file, figures)])
