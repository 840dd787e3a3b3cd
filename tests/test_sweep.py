"""Proves what `sweep` promises, with real DVC, real workers and a real Ctrl-C.

An interrupted sweep goes on and keeps what is done; its table says what DVC's records say; a run
that fails stays listed; the winner is taken over to the byte; members compare without a network.
"""

import copy
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc.utils.hydra import apply_overrides
from test_sweep_table import LR, make_record
from tiny_project import commit, environment, run, set_params, words

from pipeline.__main__ import main
from pipeline.dvc_lock import parse_lock
from pipeline.errors import ParamsError, ReportError, SweepError
from pipeline.params import read_params
from pipeline.processes import available_cores
from pipeline.reporting.revisions import untracked
from pipeline.reporting.sweep_record import read_record
from pipeline.sweep import _changed_setting, _print_table
from pipeline.sweeps import queue
from pipeline.sweeps.experiments import Experiment, experiments
from pipeline.sweeps.plan import Member, Plan, load_plan
from pipeline.sweeps.progress import Show
from pipeline.sweeps.records import contradicted, record_of

SWEEP = (sys.executable, "-m", "pipeline", "sweep")
# 1e30 is a number that passes every check and makes the loss not finite
FILE = """\
description: Which rate?
base: {train.max_steps: 1500, train.warmup_steps: 0}
grid: {train.lr: [1e30, 5e-05, 1e-2], train.seed: [1, 2]}
"""
FAILING = ["rate-lr=1e+30-seed=1", "rate-lr=1e+30-seed=2"]
STEPS = range(30, 700)  # in the middle: more than the 20 of the run that every member starts from


def references(project: Path, sweep: str) -> dict[str, str]:
    """{finished member: commit}."""
    listed = run(project, "git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    pairs = [line.split() for line in listed.stdout.splitlines()]
    return {
        name.split("/")[-1]: sha for name, sha in pairs if name.split("/")[-1].startswith(sweep)
    }


def at_work(project: Path) -> bool:
    """Whether a member is in the middle of its training."""
    for path in (project / ".dvc/tmp/exps").glob("tmp*/reports/train.csv"):
        try:
            if path.read_text().count("\n") in STEPS:
                return True
        except OSError:
            continue
    return False


def processes(project: Path) -> list[str]:
    """The command lines of workers and trainers in the project."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        here = str(process.info["cwd"]).startswith(str(project))
        if here and ("queue-worker" in words or words[-2:] == ["pipeline", "train"]):
            found.append(" ".join(words))
    return found


def shown(project: Path) -> dict[str, Any]:
    """{experiment: its record} of `dvc exp show --json`."""
    commits = json.loads(run(project, "dvc", "exp", "show", "--json").stdout)
    return {e["name"]: e for each in commits for e in each["experiments"] or []}


def rows(project: Path, sweep: str = "rate") -> dict[str, dict[str, str]]:
    text = (project / f"reports/sweeps/{sweep}.csv").read_text()
    return {row["name"]: row for row in csv.DictReader(text.splitlines())}


@pytest.fixture(scope="module")
def interrupted(
    _finished_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, dict[str, str]]:
    """A project whose sweep was interrupted by Ctrl-C; what it said; what was done by then."""
    project = tmp_path_factory.mktemp("sweep") / "project"
    shutil.copytree(_finished_template, project, symlinks=True)
    (project / "sweeps").mkdir()
    (project / "sweeps/rate.yaml").write_text(FILE)
    commit(project, "A sweep")
    sweep = subprocess.Popen(
        [*SWEEP, "run", "rate", "--workers", "2"], cwd=project, env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    while not (references(project, "rate") and at_work(project)):
        assert sweep.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.05)
    os.killpg(sweep.pid, signal.SIGINT)  # what Ctrl-C in a terminal sends
    said = sweep.communicate()[0]
    assert sweep.returncode == 130, said
    assert processes(project) == []
    assert run(project, "git", "status", "--porcelain").stdout == ""
    return project, said, references(project, "rate")


@pytest.fixture(scope="module")
def swept(interrupted: tuple[Path, str, dict[str, str]]) -> tuple[Path, str]:
    """The same project with the sweep continued and its table written; what that said."""
    project, _, _ = interrupted
    said = run(project, *SWEEP, "run", "rate", "--workers", "2").stdout
    return project, said + run(project, *SWEEP, "table", "rate").stdout


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_keeps_what_is_done(
    interrupted: tuple[Path, str, dict[str, str]], swept: tuple[Path, str]
) -> None:
    project, said, before = interrupted
    assert "stopped; to go on: python -m pipeline sweep run rate --workers 2" in said
    assert 1 <= len(before) < 4
    assert "4 of 6 runs are done, 2 failed" in swept[1]
    after = references(project, "rate")
    assert before.items() < after.items()
    logs = [path.read_text() for path in (project / ".dvc/tmp/exps/run").glob("*/*.out")]
    assert any("going on from step" in log for log in logs)
    assert not list((project / ".cache/train").glob("*/state-*"))
    deadline = time.monotonic() + 120  # DVC's idle workers look once a minute whether to end
    while processes(project) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert processes(project) == []
    again = run(project, *SWEEP, "run", "rate", "--workers", "2").stdout
    assert "queueing" not in again
    assert references(project, "rate") == after


@pytest.mark.slow
def test_every_row_is_what_dvc_exp_show_says(swept: tuple[Path, str]) -> None:
    project, _ = swept
    experiments, table = shown(project), rows(project)
    assert len(table) == 6
    done = {name: row for name, row in table.items() if row["state"] == "done"}
    assert len(done) == 4
    for name, row in done.items():
        (revision,) = experiments[name]["revs"]
        data = revision["data"]
        metrics = data["metrics"]["reports/metrics.json"]["data"]
        params = data["params"]["params.yaml"]["data"]
        assert row["commit"] == revision["rev"]
        assert float(row["train.lr"]) == params["train"]["lr"]
        assert int(row["train.seed"]) == params["train"]["seed"]
        assert params["train"]["max_steps"] == 1500
        assert params["train"]["threads"] == max(1, available_cores() // 2)
        for split in ("val", "test"):
            for key in ("loss", "perplexity", "bits_per_byte"):
                assert float(row[f"{split}.{key}"]) == metrics[split][key]
        assert int(row["parameters"]) == metrics["train"]["parameters"]
        assert int(row["tokens"]) == metrics["train"]["tokens"]
        assert float(row["seconds"]) > 0
    best = min(done.values(), key=lambda row: float(row["val.bits_per_byte"]))
    marked = [row for row in table.values() if row["best"]]
    assert [row["train.lr"] for row in marked] == [best["train.lr"]]


@pytest.mark.slow
def test_a_run_that_fails_stays_listed_with_its_error_and_without_numbers(
    swept: tuple[Path, str],
) -> None:
    project, said = swept
    experiments, table = shown(project), rows(project)
    for name in FAILING:
        assert experiments[name]["executor"]["state"] == "failed"
        assert experiments[name]["revs"][0]["data"]["metrics"], "the baseline's, shown by DVC"
        assert table[name]["state"] == "failed"
        assert table[name]["error"].startswith("training loss is nan at step")
        numbers = [v for k, v in table[name].items() if "." in k and k[:5] != "train"]
        assert set(numbers) == {""}
        assert f"failed: {name}: {table[name]['error']}" in said
    readme = (project / "README.md").read_text()
    assert readme.count(table[FAILING[0]]["error"]) == 2


@pytest.mark.slow
def test_the_page_is_checked_against_the_records_and_drawn_again_from_them_alone(
    swept: tuple[Path, str], tmp_path: Path
) -> None:
    project, _ = swept
    run(project, "dvc", "repro", "--single-item", "report")  # report.html shows the sweep
    run(project, "python", "-m", "pipeline", "report", "--check")
    run(project, *SWEEP, "table", "--check")
    commit(project, "The sweep's record")
    for names in (["rate"], []):
        run(project, *SWEEP, "table", *names)
        assert run(project, "git", "status", "--porcelain").stdout == ""
    clone = tmp_path / "clone"  # without the experiments
    run(tmp_path, "git", "clone", "-q", str(project), str(clone))
    run(clone, *SWEEP, "table", "--check")
    figure = clone / "reports/sweeps/rate/loss.png"
    before = figure.read_bytes()
    figure.unlink()
    readme = clone / "README.md"
    text = readme.read_text()
    start = text.index("bits per byte below the next")
    digit = text[start - 2]
    readme.write_text(f"{text[: start - 2]}{9 - int(digit)}{text[start - 1 :]}")
    wrong = run(clone, *SWEEP, "table", "--check", check=False)
    assert wrong.returncode == 1
    assert "reports/sweeps/rate/loss.png" in wrong.stderr
    assert "README.md: section SWEEP" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    run(clone, *SWEEP, "table", "rate")
    assert (figure.read_bytes(), readme.read_text()) == (before, text)


@pytest.mark.slow
def test_a_record_that_the_experiments_do_not_bear_out_is_named_and_written_anew(
    swept: tuple[Path, str], tmp_path: Path
) -> None:
    project = Path(shutil.copytree(swept[0], tmp_path / "project", symlinks=True))
    path = project / "reports/sweeps/rate.json"
    record = json.loads(path.read_text())
    first, *others = copy.deepcopy(record["runs"])
    first["test"]["bits_per_byte"] /= 2
    invented = {**others[0], "name": "rate-better", "val": {**others[0]["val"], "loss": 1.0}}
    shared = {**record["all_with"], "train.max_steps": 4000}
    altered = {**record, "all_with": shared, "runs": [first, *others, invented]}
    path.write_text(json.dumps(altered, indent=2))
    wrong = run(project, *SWEEP, "table", "--check", check=False)
    assert wrong.stderr.startswith(
        "error: reports/sweeps/rate.json: all_with, reports/sweeps/rate.json: rate-better, "
        f"reports/sweeps/rate.json: {first['name']}: not what DVC's experiments say; "
    )
    assert not any(run["name"] in wrong.stderr for run in others)
    path.write_text("<<<<<<< HEAD")
    run(project, *SWEEP, "table", "rate")
    assert json.loads(path.read_text()) == record
    run(project, "dvc", "exp", "remove", "-q", record["runs"][0]["name"])
    run(project, *SWEEP, "table", "rate")
    assert json.loads(path.read_text()) == record


@pytest.mark.slow
def test_promote_takes_the_winner_over_to_the_byte_and_keeps_prose(
    swept: tuple[Path, str], tmp_path: Path
) -> None:
    project = Path(shutil.copytree(swept[0], tmp_path / "project", symlinks=True))
    readme = project / "README.md"
    readme.write_text("Not committed yet.\n" + readme.read_text())
    best = next(row for row in rows(project).values() if row["best"])
    set_params(project, train__weight_decay=0.3)
    before = (project / "params.yaml").read_bytes()
    refused = run(project, *SWEEP, "promote", "rate", check=False)
    assert refused.stderr.startswith("error: params.yaml: train.weight_decay: found 0.3, then 0.1")
    assert (project / "params.yaml").read_bytes() == before
    run(project, "git", "checkout", "-q", "params.yaml")
    said = run(project, *SWEEP, "promote", "rate").stdout
    assert f"the workspace holds the results of {best['name']}" in said
    assert "'train' is cached" in said
    assert readme.read_text().startswith("Not committed yet.\n")
    assert run(project, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    for name in ("reports/metrics.json", "reports/train.csv", "reports/samples.txt"):
        theirs = run(project, "git", "show", f"{best['commit']}:{name}").stdout
        assert (project / name).read_text() == theirs
    theirs = run(project, "git", "show", f"{best['commit']}:dvc.lock").stdout
    made = parse_lock((project / "dvc.lock").read_bytes())
    before = parse_lock(theirs.encode())
    for stage in ("fetch", "prepare", "train", "evaluate"):  # report shows the sweep too
        assert made[stage] == before[stage]
    run(project, "python", "-m", "pipeline", "report", "--check")


@pytest.mark.slow
def test_a_run_whose_worker_was_killed_is_run_again(finished: Path) -> None:
    settings = ("-S", "train.seed=1,2", "-S", "train.max_steps=800", "-S", "train.warmup_steps=0")
    with subprocess.Popen(
        [*SWEEP, "run", "killed", *settings], cwd=finished, env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as sweep:  # fmt: skip
        while not at_work(finished):
            assert sweep.poll() is None, "it ended before its worker could be killed"
            time.sleep(0.05)
        for process in psutil.process_iter(["cmdline", "cwd"]):
            here = str(process.info["cwd"]).startswith(str(finished))
            if here and "queue-worker" in (process.info["cmdline"] or []):
                process.kill()
        said = sweep.communicate()[0]
    assert sweep.returncode == 0, said
    assert "2 of 2 runs are done, 0 failed" in said
    assert len(references(finished, "killed")) == 2


def test_a_newer_sweep_that_is_to_go_on_does_not_contradict_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newer = {**copy.deepcopy(LR), "baseline": "c" * 40}
    monkeypatch.setattr("pipeline.sweeps.records._taken", lambda name: newer)
    assert contradicted(LR) == ["reports/sweeps/lr.json: baseline"]
    last = newer["runs"][-1]
    newer["runs"][-1] = {**{k: last[k] for k in ("name", "settings")}, "state": "not run"}
    assert contradicted(LR) == []


def test_a_setting_that_is_no_longer_as_a_run_had_it_is_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    member = Member("rate-lr=0.1", {"train.lr": 0.1})
    set_params(finished, train__lr=0.1)
    commit(finished, "As that run had it")
    set_params(finished, train__lr=0.2, report__dpi=51)
    assert _changed_setting("HEAD", member) is None
    set_params(finished, train__seed=7)
    assert _changed_setting("HEAD", member) == "params.yaml: train.seed: found 7, then 1337"


def test_a_promotion_that_fails_leaves_the_settings_of_the_results(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    before = Path("params.yaml").read_bytes()
    with pytest.raises(SweepError, match=r"^dvc exp run: failed, .* params\.yaml is as before"):
        queue.run_here({"train.max_steps": 0})
    assert Path("params.yaml").read_bytes() == before


def without_network(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace of its own, which has no interface that is up."""
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this system lets no user make a network namespace (unshare -rn)")
    return run(project, "unshare", "-rn", *command)


@pytest.mark.slow
def test_two_members_compare_without_a_network(swept: tuple[Path, str]) -> None:
    project, _ = swept
    one, other = list(references(project, "rate"))[:2]
    table = rows(project)
    said = without_network(project, "dvc", "metrics", "diff", "--json", one, other)
    change = json.loads(said.stdout)["reports/metrics.json"]["val.loss"]
    assert change["old"] == float(table[one]["val.loss"])
    assert change["new"] == float(table[other]["val.loss"])
    plots = without_network(project, "dvc", "plots", "diff", "--json", one, other)
    drawn = json.loads(plots.stdout)["data"]
    (series,) = (plot for name, plot in drawn.items() if "train.csv" in name)
    assert set(series[0]["revisions"]) == {one, other}
    page = without_network(project, "dvc", "plots", "diff", one, other).stdout
    assert (project / "dvc_plots/index.html").is_file(), page


@pytest.mark.parametrize("name", ["pipeline/training/schedule.py", "data/own/words.txt"])
def test_a_sweep_of_what_is_not_committed_is_refused(finished: Path, name: str) -> None:
    with (finished / name).open("a") as file:
        file.write("# one line more\n")
    refused = run(finished, *SWEEP, "run", "-S", "train.lr=1e-3,1e-4", check=False)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: {name}: found changes that are not committed; "
        "allowed: a sweep that starts from a commit, so commit them first\n"
    )
    assert references(finished, "lr") == {}


@pytest.mark.slow
def test_text_that_git_does_not_track_goes_into_every_run(finished: Path) -> None:
    (finished / "books").mkdir()
    (finished / "books/mine.txt").write_text(words(900, seed=2))
    for folder in ("books", "data/init"):  # where git has another file already
        (finished / folder).mkdir(exist_ok=True)
        (finished / folder / "README.md").write_text("What is here.\n")
    run(finished, "git", "add", "--force", "books/README.md", "data/init/README.md")
    (finished / "data/init/weights.bin").write_bytes(b"of another run")
    set_params(finished, corpus__path="books")
    run(finished, "dvc", "repro", "-q")
    ignored = finished / ".gitignore"
    ignored.write_text(f"{ignored.read_text()}/books/\n")
    commit(finished, "My own text, which stays out of git")
    run(finished, *SWEEP, "run", "mine", "-S", "train.seed=1,2", "-S", "train.max_steps=5")
    locks = [run(finished, "git", "show", f"{sha}:dvc.lock").stdout
             for sha in references(finished, "mine").values()]  # fmt: skip
    (same,) = {lock.split("\n  report:")[0].split("\n  prepare:")[1][:900] for lock in locks}
    assert same in (finished / "dvc.lock").read_text()


def test_what_a_checkout_lacks_is_named_so_that_each_can_be_copied(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    for name in ("data/own/more.txt", "data/own/sub/a.txt", "books/deep/b.txt", "books/deep/c.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("text")
    assert untracked(["data/own", "books/deep/b.txt"]) == [
        "books/deep", "data/own/more.txt", "data/own/sub",
    ]  # fmt: skip
    assert untracked(["books", "books/deep", "s3://bucket", "nowhere"]) == ["books"]


def test_text_outside_of_the_project_is_refused_by_the_name_of_its_setting() -> None:
    with pytest.raises(
        ParamsError, match=r"^corpus\.path, train\.init_from: found \.\./books, out"
    ):
        untracked(["../books", "data/init"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "sweep: found no name; allowed: one of sweeps/ (none), or -S key=a,b"),
        (("run", "width"), "sweeps/width.yaml: not found"),
        (("run", "-S", "train.lrr=1,2"), "train.lrr: unknown parameter; did you mean lr?"),
        (("run", "-S", "train.lr=2024-01-01,1"), "-S: train.lr: found 2024-01-01; allowed: a numb"),
        (("table", "width"), "reports/sweeps/width.json: not found; allowed: a sweep that has run"),
        (("promote", "width"), "reports/sweeps/width.json: not found"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(finished)
    assert main(["sweep", *arguments]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_without_a_sweep_the_section_says_so_and_the_check_holds(finished: Path) -> None:
    assert "No sweep has been recorded yet" in (finished / "README.md").read_text()
    run(finished, *SWEEP, "table", "--check")


@pytest.mark.slow
def test_a_run_of_other_settings_or_another_text_is_no_run_of_this_sweep(finished: Path) -> None:
    ignored = finished / ".gitignore"
    ignored.write_text(f"{ignored.read_text()}/data/own/words.txt\n/start.pt\n")
    run(finished, "git", "rm", "-q", "--cached", "data/own/words.txt")
    shutil.copy(finished / "data/checkpoints/best.pt", finished / "start.pt")
    shutil.copy(finished / "data/checkpoints/last.pt", finished.parent / "other.pt")
    set_params(finished, train__init_from="start.pt")
    commit(finished, "My own text and weights, which stay out of git")
    seeds = ("-S", "train.seed=1,2")
    run(finished, *SWEEP, "run", "one", *seeds, "-S", "train.max_steps=5")
    short = references(finished, "one")
    said = run(finished, *SWEEP, "run", "one", *seeds).stdout
    assert said.count("done before, is run again") == 2
    whole = references(finished, "one")
    assert all(whole[name] != commit for name, commit in short.items())
    assert {f"{name}-{commit[:7]}": commit for name, commit in short.items()}.items() <= (
        whole.items()
    )  # nothing is lost
    run(finished, *SWEEP, "table", "one")
    assert {row["tokens"] for row in rows(finished, "one").values()} == {str(20 * 4 * 16)}
    run(finished, "git", "checkout", "-q", "--", "README.md")
    assert "run again" not in run(finished, *SWEEP, "run", "one", *seeds).stdout
    assert references(finished, "one") == whole
    shutil.copy(finished.parent / "other.pt", finished / "start.pt")
    refused = run(finished, *SWEEP, "promote", "one", check=False)
    assert re.fullmatch(
        r"error: start\.pt: not as one-seed=\d read it; allowed: as it was then, or run the sweep "
        r"again\n",
        refused.stderr,
    )
    refused = run(finished, *SWEEP, "run", "one", *seeds, check=False)
    assert refused.stderr.startswith(
        "error: train.init_from: start.pt is not as one-seed=1 read it, and DVC would take "
    )
    shutil.copy(finished / "data/checkpoints/best.pt", finished / "start.pt")
    assert "run again" not in run(finished, *SWEEP, "run", "one", *seeds).stdout
    (finished / "data/own/words.txt").write_text(words(1400, seed=3))
    said = run(finished, *SWEEP, "run", "one", *seeds).stdout
    assert said.count("done before, is run again") == 2


@pytest.mark.slow
def test_a_sweep_that_is_stopped_while_it_queues_says_so(finished: Path) -> None:
    command = [*SWEEP, "run", "rate", "-S", "train.seed=1,2,3"]
    sweep = subprocess.Popen(
        command, cwd=finished, env=environment(), text=True, bufsize=1,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    assert sweep.stdout is not None
    assert sweep.stdout.readline().startswith("queueing 1 of 3")
    os.killpg(sweep.pid, signal.SIGINT)
    said = sweep.communicate()[0]
    assert sweep.returncode == 130, said
    assert "queueing" not in said
    assert " running, " not in said  # the counts of a sweep that goes on
    assert "0 of 3 runs are done, 0 failed\nstopped; to go on: python -m pipeline sweep run" in said


@pytest.mark.slow
def test_an_experiment_that_ended_before_evaluate_is_no_result(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(finished, "git", "rm", "-q", "reports/metrics.json")
    commit(finished, "No results yet")
    head = run(finished, "git", "rev-parse", "HEAD").stdout.strip()
    run(finished, "dvc", "exp", "run", "-q", "-n", "part", "-S", "train.max_steps=5", "train")
    assert references(finished, "part")
    monkeypatch.chdir(finished)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    assert experiments(head) == {}


@pytest.mark.slow
def test_what_is_run_again_leaves_the_experiments_of_other_commits(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(finished, "dvc", "exp", "run", "-q", "-n", "same", "-S", "report.smoothing=0.3")
    run(finished, "git", "checkout", "-q", "--force", "HEAD")
    commit(finished, "Another commit")
    run(finished, "dvc", "exp", "run", "-q", "-n", "same", "-S", "report.smoothing=0.4")
    head = run(finished, "git", "rev-parse", "HEAD").stdout.strip()
    monkeypatch.chdir(finished)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    before = run(finished, "git", "rev-parse", f"refs/exps/{head[:2]}/{head[2:]}/same").stdout[:40]
    renamed = queue.set_aside(["same"], head)
    assert renamed == {"same": f"same-{before[:7]}"}
    listed = run(finished, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    (left,) = [line for line in listed.splitlines() if line.endswith("/same")]
    assert head[2:] not in left
    assert references(finished, renamed["same"]) == {renamed["same"]: before}


def test_a_record_of_another_commit_is_not_shown_for_runs_of_which_none_is_done(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    head = run(finished, "git", "rev-parse", "HEAD").stdout.strip()
    (finished / "reports/sweeps/lr.json").write_text(json.dumps(LR))
    settings = {"train.threads": 1, "train.lr": 1e-3}
    Plan("lr", "", ["train.lr"], [Member("lr-0", settings)], 1, baseline=head).save()
    with pytest.raises(ReportError) as caught:
        record_of("lr")
    assert str(caught.value) == (
        f"sweep lr: no run from commit {head[:10]} is done; "
        "reports/sweeps/lr.json, of commit bbbbbbbbbb, stays as it is; delete "
        ".cache/sweeps/lr.json to go back to that one"
    )
    Plan("lr", "", ["train.lr"], [Member("lr-0", settings)], 1, baseline="b" * 40).save()
    assert record_of("lr") == LR  # no such commit is here any more


def test_a_run_whose_experiment_is_removed_stays_in_the_record(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    head = run(finished, "git", "rev-parse", "HEAD").stdout.strip()
    members = [Member(each["name"], {**LR["all_with"], **each["settings"]}) for each in LR["runs"]]
    Plan("lr", LR["description"], ["train.lr"], members, 1, baseline=head).save()
    kept = {**LR, "baseline": head}
    (finished / "reports/sweeps/lr.json").write_text(json.dumps(kept))
    assert record_of("lr") == kept
    failed = {**LR["runs"][0], "state": "failed", "error": "no memory"}
    other = {**LR["runs"][0], "settings": {"train.lr": 7.0}}
    for changed in (failed, other):
        record = {**kept, "runs": [changed, *LR["runs"][1:]]}
        (finished / "reports/sweeps/lr.json").write_text(json.dumps(record))
        assert [each["state"] for each in record_of("lr")["runs"]] == ["done", "done", "not run"]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Running stage 'train':\n> python -m pipeline train", 30.0),
        ("Stage 'train' is cached - skipping run, checking out outputs", None),
        ("Stage 'train' didn't change, skipping", None),
    ],
)
def test_a_run_that_computed_nothing_has_no_time(
    said: str, seconds: float | None, tmp_path: Path
) -> None:
    log = tmp_path / "run.out"
    log.write_text(said)
    log.with_suffix(".json").write_text("{}")
    os.utime(log.with_suffix(".json"), (1030.0, 1030.0))
    assert Experiment("one", "done", "c", {}, None, log).seconds_since(1000.0) == seconds


def test_the_time_left_is_by_the_speed_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [Member(name, {"train.max_steps": 100}) for name in ("a", "b", "c")]
    plan = Plan("rate", "", [], members, 1, seconds={"a": 250.0})
    running = queue.Running(tmp_path, 1, started=1000.0)
    (tmp_path / "reports").mkdir()
    show, said = Show(plan, 100, workers=1), []
    # the 50 seconds before step 10 are no part of the speed
    for seconds, step in ((50, 10), (70, 30), (90, 50)):
        (tmp_path / "reports/train.csv").write_text(f"step\n{step}\n")
        monkeypatch.setattr(time, "time", lambda now=1000.0 + seconds: now)
        show.update(queue.Status(frozenset({"c"}), {"b": running}, frozenset()))
        said.append(show.progress.tasks[0].description.partition(", about ")[2])
    # at its end DVC says anew when it started, which shortens no run
    late = queue.Running(tmp_path, 1, started=1089.0)
    show.update(queue.Status(frozenset({"c"}), {"b": late}, frozenset()))
    assert show.seconds["b"] == 90
    # one run took 250 s, so one and a whole one; then 1 s a step, and 250 and 150 s as runs take
    assert said == ["8 min left", "4 min left", "4 min left"]


def test_a_record_that_is_no_json_is_one_line(finished: Path) -> None:
    (finished / "reports/sweeps/one.json").write_text("<<<<<<< HEAD")
    wrong = run(finished, *SWEEP, "table", "--check", check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: reports/sweeps/one.json: not JSON in UTF-8; run ")
    missing = run(finished, *SWEEP, "table", "--check", "two", check=False)
    assert "reports/sweeps/two.json: not found" in missing.stderr


def test_what_is_no_record_or_no_plan_is_one_line(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    for name in ("one", "../metrics"):
        Path("reports/sweeps/one.json").write_text("{}")
        with pytest.raises(
            ReportError, match=f"{name}.json: not the record of a sweep {name}; run"
        ):
            read_record(name)
    Path(".cache/sweeps").mkdir()
    for values in ({"name": "one"}, {"members": [], "of_another_version": 1}, {"members": [1]}):
        Path(".cache/sweeps/one.json").write_text(json.dumps(values))
        with pytest.raises(
            SweepError, match=r"one\.json: not a plan as this version writes it; del"
        ):
            load_plan("one")


@pytest.mark.parametrize(
    "value",
    [
        "\\section{a}",
        "ends in \\",
        "it's",
        "\\'",
        "${HOME}",
        "\\${x}",
        "\\\\${x} \\b",
        "",
        "a,b",
        "é\n",
    ],
)
def test_text_reaches_a_run_as_it_is(finished: Path, value: str) -> None:
    apply_overrides(finished / "params.yaml", [f"sample.prompt={queue._override(value)}"])
    assert read_params(finished / "params.yaml")["sample"]["prompt"] == value


def test_the_table_in_the_terminal_shows_settings_as_they_are(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patterns = [("**/[ab]0.md",), ("[/x]",), ("a\nb",)]
    _print_table(make_record("of [/b]", ["corpus.pattern"], patterns))
    said = capsys.readouterr().out
    assert all(text in said for text in ("of [/b]", "**/[ab]0.md", "[/x]"))
    assert "ab" not in said.replace("[ab]", "")
