"""Compare several settings: run them side by side, rank them, promote the best."""

import shlex
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.errors import ReportError, SweepError
from pipeline.params import PARAMS_FILE, load_params, read_params
from pipeline.paths import BROUGHT, METRICS, README, SWEEPS
from pipeline.processes import available_cores, stop_on_signals

if TYPE_CHECKING:
    from pipeline.reporting.sweep_record import Record
    from pipeline.sweeps.experiments import Experiment
    from pipeline.sweeps.plan import Member, Plan

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command()
def run(
    name: Annotated[
        str | None, typer.Argument(help="The sweep: sweeps/NAME.yaml, or a new name with -S.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("-S", help="key=a,b: a grid, instead of a file; key=a: for every run."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Run those that failed again.")] = False,
) -> None:
    """Queue every run of a sweep as a DVC experiment and run them, `workers` at a time.

    The cores are shared out: train.threads = cores / workers, unless the sweep sets it. After
    Ctrl-C the same command goes on: what is done stays, what was at work goes on from its state.
    Runs that fail are listed, and stand in the table; it ends with an error where every one did.

    Examples:

        python -m pipeline sweep run width --workers 2

        python -m pipeline sweep run -S 'train.lr=1e-3,5e-4,1e-4' -S 'model.n_layer=1,2'
    """
    from pipeline.reporting.revisions import untracked
    from pipeline.sweeps import queue as queues
    from pipeline.sweeps.experiments import experiments
    from pipeline.sweeps.plan import params_of, resulting
    from pipeline.sweeps.progress import Show
    from pipeline.sweeps.watch import take_up, watch

    settings = settings or []
    plan, workers = _planned(name, settings, workers)
    params = read_params()
    brought = [path for m in plan.members for path in params_of(params, m).brought()]
    copied = untracked(brought)
    _refuse_uncommitted(brought)
    stopping = stop_on_signals()
    queue = queues.Queue(plan.baseline)
    left = take_up(queue, plan)
    found = experiments(plan.baseline)
    todo = [m for m in plan.members if m.name not in left]
    kept = {m.name for m in todo if _stands(found.get(m.name), resulting(params, m), retry)}
    todo = [m for m in todo if m.name not in kept]
    again = {m.name for m in todo if m.name in found}
    failed_before = {each for each in again if found[each].state == "failed"}
    queues.remove(failed_before)
    aside = queues.set_aside(again - failed_before, plan.baseline)
    for each in sorted(again):
        kept_as = f"; that is {aside[each]} now" if each in aside else ""
        print(f"{each}: {found[each].state} before, is run again{kept_as}")
        plan.forget_times(each)
    plan.save()
    with Show(plan, load_params().train.max_steps, workers) as show:
        for number, member in enumerate(todo):
            if stopping:
                break
            show.line(f"queueing {number + 1} of {len(todo)}: {member.name}")
            try:
                queues.add(member, copied)
            except SweepError:  # Ctrl-C may reach DVC before it has a session of its own
                if not stopping:
                    raise
        started = watch(queue, plan, workers, show, stopping, copied)
    found = experiments(plan.baseline)
    for each, start in started.items():
        before = plan.spent.pop(each, 0.0)
        if each not in found:  # stopped
            plan.spent[each] = before + time.time() - start
        elif (took := found[each].seconds_since(start)) is not None:
            plan.seconds[each] = before + took
    plan.save()
    failed = [found[m.name] for m in plan.members if m.name in found and found[m.name].error()]
    for experiment in failed:
        print(f"failed: {experiment.name}: {experiment.error()}")
    done = sum(1 for m in plan.members if m.name in found and found[m.name].state == "done")
    print(f"{done} of {len(plan.members)} runs are done, {len(failed)} failed")
    command = _command(plan, settings, workers)
    if stopping and done + len(failed) < len(plan.members):
        print(f"stopped; to go on: {command}")
        raise typer.Exit(130)
    if failed:
        print(f"to try those again: {command} --retry")
    print(f"next: python -m pipeline sweep table {plan.name}")
    if not done:
        raise SweepError(f"sweep {plan.name}: every run failed")


@app.command()
def table(
    name: Annotated[
        str | None, typer.Argument(help="A sweep that has run; every recorded one if none.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if anything differs.")
    ] = False,
) -> None:
    """Write a sweep's record, table and figures to reports/sweeps/, and the README's section SWEEP.

    The numbers are those of `dvc exp show`. Without NAME, all sweeps are drawn anew from their
    records.

    Example: `python -m pipeline sweep table width`
    """
    from pipeline.reporting.sweep_record import read_record, recorded
    from pipeline.reporting.sweep_table import as_section
    from pipeline.reporting.written import write_or_compare
    from pipeline.sweeps.records import contradicted, drawn_before, record_of, rendered

    dpi = load_params().report.dpi
    if check and name is not None:
        read_record(name)  # raises where there is none; all are checked
    records = {each: read_record(each) for each in recorded() if check or each != name}
    if check:
        for each, record in records.items():
            if wrong := contradicted(record):
                raise ReportError(
                    f"{', '.join(wrong)}: not what DVC's experiments say; "
                    f"run `python -m pipeline sweep table {each}`"
                )
    elif name is not None:
        records[name] = record_of(name)
    files = {
        path: data for record in records.values() for path, data in rendered(record, dpi).items()
    }
    leftover = [path for path in drawn_before() if path not in files]
    section = {"SWEEP": as_section([records[each] for each in sorted(records)])}
    said = "the sweeps' records say; run `python -m pipeline sweep table`"
    removed = write_or_compare(files, leftover, section, check, said, required=bool(records))
    if check:
        print(f"{README} and {SWEEPS}/ are what the sweeps' records say")
        return
    for path in removed:
        print(f"removed {path}: of a sweep without a record, or of an earlier one")
    for each in [name] if name else records:
        _print_table(records[each])
    print(f"wrote {SWEEPS}/ and the section SWEEP of {README}; report.html is due: `dvc repro`")


@app.command()
def promote(name: Annotated[str, typer.Argument(help="The sweep.")]) -> None:
    """Make the best run of a sweep the workspace's state, README's sections included.

    All its settings go into params.yaml, those of the sweep's `base` too (a smaller model, say),
    and DVC takes its results from the run-cache. What you have written around the README's sections
    stays, committed or not. To take over a value alone: `dvc exp run -S train.lr=3e-3`.

    Example: `python -m pipeline sweep promote width`
    """
    from pipeline.reporting.revisions import git
    from pipeline.reporting.sweep_record import best_run
    from pipeline.sweeps import queue as queues
    from pipeline.sweeps.plan import Member
    from pipeline.sweeps.records import promoted_differs, record_of

    record = record_of(name)
    best = best_run(record)
    settings = {**record["all_with"], **best["settings"]}
    if git("cat-file", "-t", best["commit"], check=False) and (
        changed := _changed_weights(best["commit"])
        or _changed_input(best["commit"])
        or _changed_setting(best["commit"], Member(best["name"], settings))
    ):
        raise ReportError(
            f"{changed}: not as {best['name']} read it; allowed: as it was then, or run the sweep "
            "again"
        )
    words = ", ".join(f"{key}={value}" for key, value in settings.items())
    print(f"promoting {best['name']}: {words}", flush=True)
    queues.run_here(settings)
    if differs := promoted_differs(best):
        raise ReportError(
            f"{differs}: not that of {best['name']}; code, data or platform differ from then: "
            "run the sweep again; what was made here instead is in the workspace, and "
            "`git checkout dvc.lock params.yaml README.md reports && dvc checkout` brings back the "
            "last commit's"
        )
    print(f"the workspace holds the results of {best['name']}, to the byte; commit them to keep")


def _planned(name: str | None, settings: list[str], workers: int) -> tuple["Plan", int]:
    """The sweep that was asked for, and how many workers the cores have threads for."""
    from pipeline.reporting.revisions import git
    from pipeline.sweeps.plan import (
        FILES,
        load_plan,
        params_of,
        plan_from_file,
        plan_from_flags,
        processes_of,
    )

    if name is None and not settings:
        there = ", ".join(sorted(path.stem for path in FILES.glob("*.yaml"))) or "none"
        raise SweepError(f"sweep: found no name; allowed: one of {FILES}/ ({there}), or -S key=a,b")
    if name and settings and (FILES / f"{name}.yaml").is_file():
        raise SweepError(f"sweep {name}: {FILES}/{name}.yaml says it; allowed: another name for -S")
    if name is None:  # named by what it varies
        keys = [flag.partition("=")[0] for flag in settings if "," in flag]
        name = "-".join(key.split(".")[-1] for key in keys) or "sweep"
        if (FILES / f"{name}.yaml").is_file():  # another sweep's
            name += "-grid"
    head = git("rev-parse", "HEAD").decode().strip()
    cores, threads = available_cores(), max(1, available_cores() // workers)
    before = load_plan(name)
    if before and before.baseline == head:  # the same threads, or the runs would not compare
        threads = before.threads
    plan = plan_from_flags(name, settings, threads) if settings else plan_from_file(name, threads)
    plan.baseline = head
    if before and before.baseline == head:
        plan.spent, plan.seconds = before.spent, before.seconds
    params = read_params()
    trains = [params_of(params, member).train for member in plan.members]
    each = max(cores if t.threads == "auto" else int(t.threads) * processes_of(t) for t in trains)
    most = max(1, cores // each)
    if workers > most:
        print(f"{most} at a time: {cores} cores, and a run of this sweep takes {each}")
    return plan, min(workers, most)


def _refuse_uncommitted(brought: list[str]) -> None:
    """All runs of a sweep start from one commit: its code, settings and what people bring.

    What git does not have of that is none of a commit, and is copied to every run.
    """
    from pipeline.reporting.revisions import git
    from pipeline.reporting.stages import DVC_FILE, read_stages

    paths = {"params.yaml", str(DVC_FILE), *(path for s in read_stages() for path in s.code)}
    given = {path for path in brought if not Path(path).is_absolute()}
    changed = git("status", "--porcelain", "--", *sorted(paths)).decode().splitlines()
    held = git("status", "--porcelain", "--untracked-files=no", "--", *sorted(given))
    if changed := changed + held.decode().splitlines():
        raise SweepError(
            f"{changed[0][3:]}: found changes that are not committed; allowed: a sweep that starts "
            "from a commit, so commit them first"
        )


def _stands(experiment: "Experiment | None", settings: dict[str, Any], retry: bool) -> bool:
    """Whether a run need not be queued: done with all these settings and this text, or failed."""
    if experiment is None or experiment.state not in ("done", "failed"):
        return False
    if experiment.differing(settings):
        return False
    if experiment.state == "failed":
        return not retry
    if weights := _changed_weights(experiment.commit):
        raise SweepError(
            f"train.init_from: {weights} is not as {experiment.name} read it, and DVC would take "
            "that one's training for this one's; allowed: weights in data/init, where it sees them "
            "change"
        )
    return _changed_input(experiment.commit) is None


def _changed_input(commit: str) -> str | None:
    """An input that a run read, and dvc.lock names, that is no longer there as it was, code aside;
    None where all are."""
    from pipeline.dvc_lock import producer_of, upstream
    from pipeline.reporting.revisions import Revision, read_lock
    from pipeline.reporting.stages import CODE

    lock = read_lock(Revision(commit))
    stages = upstream(lock, METRICS.as_posix())
    deps = [dep for stage in stages for dep in lock[stage].get("deps", [])]
    for dep in deps:
        path = dep["path"]
        if path.endswith(CODE) or producer_of(lock, path) is not None:
            continue
        if not _as_then(path, dep.get("md5")):
            return str(path)
    return None


def _changed_setting(commit: str, member: "Member") -> str | None:
    """A setting that is not its sweep's, and no longer as a run had it; None where all are."""
    from pipeline.reporting.revisions import git
    from pipeline.storage import parse_yaml
    from pipeline.sweeps.plan import Member, resulting

    data = git("show", f"{commit}:./{PARAMS_FILE}")
    then = resulting(parse_yaml(data, PARAMS_FILE, ReportError, "run it again"), Member("", {}))
    for key, value in resulting(read_params(), member).items():
        if key in then and then[key] != value:
            return f"{PARAMS_FILE}: {key}: found {value!r}, then {then[key]!r}"
    return None


@cache
def _as_then(path: str, md5: str | None) -> bool:
    """Whether a file or folder is as a run read it; hashed once for all runs."""
    from pipeline.reporting.lineage import check_dep
    from pipeline.reporting.revisions import WorkingTree

    return not check_dep(WorkingTree(), {"path": path, "md5": md5})


def _changed_weights(commit: str) -> str | None:
    """The weights that a run started from, where no stage lists them and they are no longer as it
    read them."""
    from pipeline.sweeps.records import provenance_of

    start = provenance_of(commit).get("init_from") or {"file": None}
    file = start["file"]
    if not file or any(Path(file).is_relative_to(folder) for folder in BROUGHT):
        return None
    return None if _same_weights(file, start["sha256"]) else str(file)


@cache
def _same_weights(file: str, sha256: str) -> bool:
    """Whether weights are as a run read them; hashed once for all runs."""
    from pipeline.model.weights_files import are_there, weights_sha256

    return are_there(Path(file)) and weights_sha256(Path(file)) == sha256


def _print_table(record: "Record") -> None:
    """The table in the terminal, the best first."""
    import csv
    from io import StringIO

    from rich.table import Table
    from rich.text import Text

    from pipeline.console import uncut_console
    from pipeline.reporting.sweep_record import short_names
    from pipeline.reporting.sweep_table import as_csv, verdict

    rows = list(csv.DictReader(StringIO(as_csv(record))))
    drawn = Table(title=Text(f"{record['sweep']}: {record['description']}".rstrip(": ")))
    heads = ["", *short_names(record["varied"]), "val bpb", "test bpb", "test ppl"]
    for head in (*heads, "parameters", "tokens", "seconds", "commit"):
        least = len("0.0000") if head.endswith("bpb") else None  # whole on a narrow terminal too
        side: Literal["left", "right"] = "left" if head in ("", "commit") else "right"
        drawn.add_column(head, justify=side, min_width=least)
    for row in rows:
        numbers = [row[f"{name}.bits_per_byte"] for name in ("val", "test")]
        cells = [row["best"], *(row[key] for key in record["varied"])]
        cells += [number and f"{float(number):.4f}" for number in numbers]
        cells += [row["test.perplexity"] and f"{float(row['test.perplexity']):.2f}"]
        cells += [row["parameters"], row["tokens"], row["seconds"], row["commit"][:7]]
        if row["state"] != "done":
            cells[-1] = row["state"]
        drawn.add_row(*map(Text, cells), style="bold" if row["best"] else None)
    console = uncut_console()
    console.print(drawn)
    for row in rows:
        if row["error"]:
            console.print(f"{row['name']}: {row['error']}", markup=False, soft_wrap=True)
    console.print(verdict(record), markup=False, soft_wrap=True)


def _command(plan: "Plan", settings: list[str], workers: int) -> str:
    """The command line that goes on with this sweep."""
    words = ["python", "-m", "pipeline", "sweep", "run", plan.name]
    words += [word for setting in settings for word in ("-S", setting)]
    return shlex.join([*words, "--workers", str(workers)])
