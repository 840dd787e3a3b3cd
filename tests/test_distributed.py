"""Several processes train the same model on the same data as one, and end together.

Real processes over gloo, started as `python -m pipeline train` and torchrun start them; real
signals. A step's batch is params.yaml's whatever their number, so losses agree but for rounding.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from filelock import FileLock
from test_resume import clear, hashes, wait_for_state
from tiny_project import SMALL_FILES, environment, make_project, run, set_params

from pipeline.training import launch, ranks
from pipeline.training.launch import error_line

TOLERANCE = 1e-5  # relative, fp32
ACCUMULATED = {"train__micro_batch_size": 2, "train__grad_accum_steps": 4}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project ready to train, of one process, 8 sequences a step."""
    project = make_project(tmp_path_factory.mktemp("several") / "p", train__micro_batch_size=8)
    run(project, "dvc", "repro", "-q", "prepare")
    return project


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "p", symlinks=True))


def train(project: Path, *launcher: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Train by `python`, or by another launcher, with these changes of the environment."""
    command = [*(launcher or (sys.executable,)), "-m", "pipeline", "train"]
    return subprocess.run(
        command, cwd=project, env=environment(**changes), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def losses(project: Path) -> list[float]:
    with (project / "reports/train.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def weights(project: Path) -> dict[str, torch.Tensor]:
    best = torch.load(project / "data/checkpoints/best.pt", weights_only=True)
    return dict(best["model_state_dict"])


def trained(project: Path, **changes: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    set_params(project, **changes)
    clear(project)
    done = train(project)
    assert done.returncode == 0, done.stderr
    return losses(project), weights(project)


def assert_alike(
    one: tuple[list[float], dict[str, torch.Tensor]],
    other: tuple[list[float], dict[str, torch.Tensor]],
) -> None:
    assert len(one[0]) == 20
    torch.testing.assert_close(torch.tensor(one[0]), torch.tensor(other[0]), rtol=TOLERANCE, atol=0)
    # all together: a key's bias has no gradient but rounding, which AdamW scales up
    assert one[1].keys() == other[1].keys()
    these, those = (torch.cat([w.flatten() for w in each[1].values()]) for each in (one, other))
    assert (these - those).norm() <= TOLERANCE * these.norm()


def test_two_processes_train_as_one_does_and_the_first_alone_speaks(project: Path) -> None:
    one = trained(project)
    set_params(project, train__nproc=2)
    clear(project)
    done = train(project)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "2 processes (ddp)" in done.stdout
    assert done.stdout.count("done at step 20") == 1
    assert_alike(one, (losses(project), weights(project)))


def test_a_full_disk_while_shards_are_saved_is_one_line(project: Path) -> None:
    set_params(project, train__parallel="fsdp", log__save_interval=1e-6)
    limited = "ulimit -f 4; trap '' XFSZ; exec python \"$@\""
    full = train(project, "sh", "-c", limited, "python", **SMALL_FILES)
    assert full.returncode == 1, full.stdout
    assert full.stderr.startswith("error: .cache/train/")
    assert full.stderr.endswith(".shards: not written; make room and run it again\n")
    assert full.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        ACCUMULATED,
        {"train__batch_order": "documents", "train__optimizer": "adamw"},
        {"model__architecture": "gpt2", "model__bias": True, "train__optimizer": "adamw"},
        {"train__activation_checkpointing": True, "train__freeze_layers": 1},
        {"train__compile": "on"},
        {"model__architecture": "canon"},
    ],
    ids=[
        "muon",
        "accumulation",
        "documents",
        "gpt2-adamw",
        "recomputed-frozen",
        "compiled",
        "canon",
    ],
)
def test_one_two_and_four_processes_copied_or_sharded_agree(
    project: Path, changes: dict[str, object]
) -> None:
    if changes.get("train__batch_order") == "documents":
        lines = (project / "data/own/words.txt").read_text().splitlines()
        (project / "data/own/words.txt").unlink()
        for number, line in enumerate(lines):
            (project / f"data/own/{number:03}.txt").write_text(line)
        set_params(project, prepare__split_by="document")
        run(project, "dvc", "repro", "-q", "prepare")
    one = trained(project, **changes)
    for parallel in ("ddp", "fsdp"):
        for nproc in (1, 2, 4):
            if (parallel, nproc) != ("ddp", 1):
                some = trained(project, train__nproc=nproc, train__parallel=parallel)
                assert_alike(one, some)


def test_several_processes_need_a_way_to_share(project: Path) -> None:
    set_params(project, train__parallel="none")
    refused = train(project, sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
    assert refused.returncode != 0
    line = "error: train.parallel: found none, with 2 processes; allowed: ddp, fsdp"
    assert line in refused.stderr.splitlines()
    assert not (project / "data/checkpoints").exists()


@pytest.mark.slow
def test_torchrun_starts_them_as_well(project: Path) -> None:
    one = trained(project)
    clear(project)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = train(project, *torchrun, "--nproc-per-node=2")
    assert done.returncode == 0, done.stderr
    assert "2 processes (ddp)" in done.stdout
    assert_alike(one, (losses(project), weights(project)))


def test_a_step_that_does_not_divide_is_one_line_with_the_numbers_that_do(project: Path) -> None:
    set_params(project, train__nproc=3)
    refused = train(project)
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: train.nproc: found 3 processes for 8 sequences a step "
        "(sequences_per_step, or micro_batch_size * grad_accum_steps); allowed: 1, 2, 4, 8, or "
        "a step of a multiple of 3 sequences\n"
    )


def test_a_scheduler_that_says_half_is_one_line(project: Path) -> None:
    refused = train(project, RANK="0", WORLD_SIZE="2")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: LOCAL_RANK, LOCAL_WORLD_SIZE: not set, though WORLD_SIZE is 2; "
        "start the processes by torchrun\n"
    )


def test_processes_spread_over_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(uuid=gpu))
    held: list[FileLock] = []
    monkeypatch.setattr(ranks, "_HELD", held)
    assert [ranks.take_gpu(range(2)) for _ in range(5)] == [0, 1, 0, 1, 0]
    held[1].release()
    assert [ranks.take_gpu(range(2)) for _ in range(2)] == [1, 1]
    assert [ranks.take_gpu([1]) for _ in range(2)] == [1, 1]  # a group's process: its own
    assert ranks.take_gpu(range(2)) == 0
    monkeypatch.setenv("DVC_ROOT", "/dev/null")  # where no lock can be
    assert ranks.take_gpu([1, 0]) == 1


def test_the_line_of_an_error_is_taken_whole() -> None:
    line = "train.init_from: m.pt: n_layer: its settings say 'error: x', its tensors have 1"
    assert error_line(f"a warning\nerror: {line}\n") == line
    assert error_line("Traceback\nValueError: error: x\n") is None
    assert error_line("") is None


def test_an_error_is_not_hidden_by_the_processes_that_were_killed_for_it(tmp_path: Path) -> None:
    said = {0: "Traceback\nerror: training loss is nan\n", 1: ""}
    failures = {}
    for rank, (text, status) in enumerate(zip(said.values(), (1, -signal.SIGKILL), strict=True)):
        log = tmp_path / f"run/attempt_0/{rank}/stderr.log"
        log.parent.mkdir(parents=True)
        log.write_text(text)
        failures[rank] = SimpleNamespace(local_rank=rank, exitcode=status)
    ended = launch.first_to_fail(SimpleNamespace(failures=failures), tmp_path, 2)
    assert ended == launch.Ended(1, said[0], "")


@pytest.mark.slow
def test_an_error_in_every_worker_is_one_line(project: Path) -> None:
    set_params(project, train__nproc=2, model__block_size=4096)
    refused = train(project)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith("error: val split: found")


def started(project: Path) -> subprocess.Popen[str]:
    """A run of two processes that has gone on and saved its state."""
    states = (project / ".cache/train").glob("*/state-*.json")
    before = max((int(state.stem.split("-")[1]) for state in states), default=0)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train"], cwd=project, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for_state(project, before + 3)
    return process


def wait_until_gone(process: psutil.Process) -> None:
    """The test's own time limit ends a hang; a zombie has ended, its new parent has not looked."""
    while process.is_running():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "nproc"), [("ddp", 4), ("fsdp", 2)])
def test_killed_or_stopped_anywhere_nothing_is_left_and_it_ends_in_the_same_bytes(
    project: Path, parallel: str, nproc: int
) -> None:
    # of four: two gradients have the same sum in either order
    set_params(
        project, train__nproc=nproc, train__parallel=parallel, train__max_steps=200,
        model__dropout=0.1, log__save_interval=60,
    )  # fmt: skip
    assert train(project).returncode == 0
    whole = hashes(project)
    clear(project)
    set_params(project, log__save_interval=1e-6)
    for who in ("rank 1", "rank 0", "launcher", "Ctrl-C"):
        process = started(project)
        workers = psutil.Process(process.pid).children()
        assert len(workers) == nproc
        ranks = {worker.environ()["RANK"]: worker for worker in workers}
        if who == "launcher":
            process.kill()
        elif who == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            ranks[who[-1]].kill()
        output, errors = process.communicate(timeout=120)
        for worker in workers:
            wait_until_gone(worker)
        if who.startswith("rank"):
            assert process.returncode == 1
            assert errors == (
                f"error: process {who[-1]} of {nproc} was killed by SIGKILL, and the others were "
                "ended; run it again: it goes on from the last saved state\n"
            )
        if who == "Ctrl-C":
            assert process.returncode == 130
            assert errors == ""
            assert output.count("the same command goes on there") == 1
        clear(project)
        states = list((project / ".cache/train").glob("*/state-*.json"))
        assert states
    done = train(project)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stdout
    assert "bytes will differ" not in done.stdout
    assert hashes(project) == whole


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_another_number_of_processes_goes_on_and_says_that_bytes_differ(
    project: Path, parallel: str
) -> None:
    settings = {"train__max_steps": 200, "train__parallel": parallel, "log__save_interval": 1e-6}
    set_params(project, train__nproc=2, **settings)
    assert train(project).returncode == 0
    whole = losses(project)
    clear(project)
    process = started(project)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    for nproc in (1, 4):
        copy = Path(shutil.copytree(project, project.parent / f"{nproc}", symlinks=True))
        clear(copy)
        set_params(copy, train__nproc=nproc)
        done = train(copy)
        assert done.returncode == 0, done.stderr
        assert "going on from step" in done.stdout
        assert f"of 2 processes, now there are {nproc}" in done.stdout
        assert "bytes will differ" in done.stdout
        facts = json.loads((copy / "data/checkpoints/run.json").read_text())
        assert facts["runtime"]["processes"] == sorted([2, nproc])
        torch.testing.assert_close(
            torch.tensor(losses(copy)), torch.tensor(whole), rtol=1e-4, atol=0
        )
