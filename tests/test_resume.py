"""A run stopped anywhere, by any signal, and started again ends in the bytes of one never stopped.

Real processes, real signals: see killed.py for how a signal hits an exact point.
"""

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tiny_project import SMALL_FILES, commit, environment, make_project, run, set_params

from pipeline.errors import CheckpointError, TrainingError
from pipeline.params import load_params
from pipeline.training import resume as states_of_runs
from pipeline.training.resume import ResumeState
from pipeline.training.run import _what_decides
from pipeline.training.runtime import Runtime, can_compile

KILLED = str(Path(__file__).with_name("killed.py"))
OUTPUTS = ("data/checkpoints", "reports/train.csv")
DECIDES = {"data": {"tokens": "0a"}, "train": {"lr": 0.01, "seed": 1}, "code": {"pipeline": "0b"}}

CONFIGS = {
    "fp32-adamw-dropout": {"train__optimizer": "adamw", "model__dropout": 0.2},
    "bf16-muon-accumulation": {"train__precision": "bf16", "train__grad_accum_steps": 2},
    "fp32-muon-dropout-accumulation": {
        "model__dropout": 0.2,
        "train__grad_accum_steps": 2,
        "train__keep_interval": 6,
        "train__batch_order": "shuffled",
    },
    "compiled": {"train__precision": "bf16", "train__compile": "on"},
    "bf16-adamw-gpt2": {
        "train__precision": "bf16",
        "train__optimizer": "adamw",
        "model__architecture": "gpt2",
        "model__bias": True,
    },
}
CONFIGS["compiled-apart"] = {
    **CONFIGS["compiled"],
    "train__threads": 2,
    "train__micro_batch_size": 32,  # 256 tokens a thread
}
CONFIGS["bf16-adamw-gpt2-compiled"] = {**CONFIGS["bf16-adamw-gpt2"], "train__compile": "on"}
SEQUENCES = {
    "step-validate-save": [("step", "SIGINT"), ("validate", "SIGKILL"), ("fsync", "SIGKILL")],
    "kill-term-rename": [("step", "SIGKILL"), ("step", "SIGTERM"), ("replace", "SIGKILL")],
}


def hashes(project: Path, outputs: tuple[str, ...] = OUTPUTS) -> dict[str, str]:
    files: list[Path] = []
    for output in outputs:
        path = project / output
        files += [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {
        file.relative_to(project).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def clear(project: Path) -> None:
    """What DVC does to a stage's outputs before it runs."""
    shutil.rmtree(project / "data/checkpoints", ignore_errors=True)
    (project / "reports/train.csv").unlink(missing_ok=True)


def prepared(folder: Path, **changes: object) -> Path:
    """A project ready to train, saving its state after every step."""
    project = make_project(folder, log__save_interval=1e-6, **changes)
    run(project, "dvc", "repro", "-q", "prepare")
    return project


def train(project: Path, *killed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, KILLED, *killed] if killed else [sys.executable, "-m", "pipeline"]
    return subprocess.run(
        [*command, "train"], cwd=project, env=environment(), capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "config",
    [
        "fp32-muon-dropout-accumulation",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in CONFIGS
            if name != "fp32-muon-dropout-accumulation"
        ),
    ],
)
def test_killed_anywhere_three_times_it_ends_in_the_same_bytes(config: str, tmp_path: Path) -> None:
    project = prepared(tmp_path / "p", **CONFIGS[config])
    done = train(project)
    assert done.returncode == 0, done.stderr
    assert ("each with its own sequences" in done.stdout) is config.endswith("apart")
    uninterrupted = hashes(project)
    assert {"data/checkpoints/best.pt", "data/checkpoints/last.pt"} < uninterrupted.keys()
    where = random.Random(config)
    for sequence in SEQUENCES.values():
        clear(project)
        reached = 0
        for point, name in sequence:
            # a look at val every 5 steps, some 10 flushes a step
            call = where.randint(2, 5) if point == "step" else where.randint(1, 20)
            call = 1 if point == "validate" else call
            killed = train(project, point, str(call), name)
            expected = 130 if name in ("SIGINT", "SIGTERM") else -signal.SIGKILL
            assert killed.returncode == expected, killed.stdout + killed.stderr
            if name in ("SIGINT", "SIGTERM"):
                assert "the same command goes on there" in killed.stdout
            assert ("going on from step" in killed.stdout) == (reached > 0), killed.stdout
            states = list((project / ".cache/train").glob("*/state-*.json"))
            reached = max((int(state.stem.split("-")[1]) for state in states), default=0)
            clear(project)
        done = train(project)
        assert done.returncode == 0, done.stderr
        assert "going on from step" in done.stdout
        assert hashes(project) == uninterrupted
        assert not list((project / ".cache/train").glob("*/state-*"))


def test_another_number_of_processes_may_go_on_where_threads_were_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "p")
    (project / "data/tokens").mkdir(parents=True)
    (project / "data/tokens/meta.json").write_text("{}")
    monkeypatch.chdir(project)
    one = Runtime("cpu", "bf16", "matmul", True, 4, "native", threads_apart=True)
    of_two = replace(one, threads=2, threads_apart=False)
    params = load_params()
    assert _what_decides(params, 4, one, None) == _what_decides(params, 4, of_two, None)
    assert _what_decides(params, 4, one, None) != _what_decides(params, 2, of_two, None)


@pytest.fixture(scope="module")
def interrupted_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped by Ctrl-C at step 7."""
    project = prepared(tmp_path_factory.mktemp("interrupted") / "p")
    assert train(project, "step", "7", "SIGINT").returncode == 130
    return project


@pytest.fixture
def interrupted(interrupted_template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted_template, tmp_path / "p", symlinks=True))


def test_an_unchanged_run_goes_on_where_it_stopped(interrupted: Path) -> None:
    assert "going on from step 7" in train(interrupted).stdout


@pytest.mark.parametrize("changed", ["parameter", "corpus", "code", "tokens"])
def test_a_changed_input_starts_from_the_first_step(interrupted: Path, changed: str) -> None:
    if changed == "parameter":
        set_params(interrupted, train__lr=0.001)
    elif changed == "code":
        with (interrupted / "pipeline/training/schedule.py").open("a") as file:
            file.write("# one line more\n")
    elif changed == "tokens":
        set_params(interrupted, prepare__val_fraction=0.2)
    else:
        text = interrupted / "data/own/words.txt"
        text.write_text(text.read_text().replace("king", "king's", 1))
    run(interrupted, "dvc", "repro", "-q", "prepare")
    done = train(interrupted)
    assert done.returncode == 0, done.stderr
    assert "going on" not in done.stdout
    assert (interrupted / "reports/train.csv").read_text().splitlines()[1].startswith("1,")


def test_how_often_to_save_is_no_part_of_the_run(interrupted: Path) -> None:
    set_params(interrupted, log__save_interval=60)
    assert "going on from step 7" in train(interrupted).stdout


def test_a_second_trainer_of_the_same_run_is_refused(interrupted: Path) -> None:
    import filelock

    (folder,) = (interrupted / ".cache/train").iterdir()
    with filelock.FileLock(folder / "lock"):
        refused = train(interrupted)
    assert refused.returncode == 1
    assert "another process is training this very run" in refused.stderr
    assert refused.stderr.count("\n") == 1


def states(project: Path) -> list[Path]:
    return sorted((project / ".cache/train").glob("*/state-*.pt"))


@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        "gone",
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("cut", "foreign", "empty")),
    ],
)
def test_a_damaged_state_is_named_and_the_one_before_is_used(
    interrupted: Path, damage: str
) -> None:
    older, newest = states(interrupted)
    data = newest.read_bytes()
    place = random.Random(damage).randrange(len(data))
    damaged = {
        "flip": data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :],
        "cut": data[:place],
        "foreign": b"something else entirely",
        "empty": b"",
        "gone": b"",
    }
    newest.write_bytes(damaged[damage])
    if damage == "gone":
        newest.unlink()
    done = train(interrupted)
    assert done.returncode == 0, done.stderr
    assert f"warning: {newest.stem}: damaged, not used" in done.stdout
    assert f"going on from step {int(older.stem.split('-')[1])}" in done.stdout


def test_a_damaged_record_takes_no_whole_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    resume, best = ResumeState(DECIDES), tmp_path / "best.pt"
    best.write_bytes(b"weights")
    for step in (50, 100):
        resume.save(step, {"step": step}, [best])
    record = resume.folder / "state-000000100.json"
    record.write_text(record.read_text()[:40])
    state, (line,) = resume.load(tmp_path / "out")
    assert state == {"step": 50}
    assert line.startswith("state-000000100: damaged, not used")
    best.write_bytes(b"other weights")
    resume.save(70, {"step": 70}, [best])
    assert {path.stem for path in resume.folder.glob("state-*.json")} == {
        "state-000000050", "state-000000070",
    }  # fmt: skip
    resume.load(tmp_path / "out")
    assert (tmp_path / "out/best.pt").read_bytes() == b"other weights"


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("sha256_file", OSError(errno.EIO, "Input/output error")),
        ("read_tensors", CheckpointError("state-000000100.pt: can't allocate memory")),
    ],
)
def test_a_disk_or_a_memory_that_fails_costs_no_state(
    broken: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    resume = ResumeState(DECIDES)
    for step in (50, 100):
        resume.save(step, {"step": step}, [])
    with monkeypatch.context() as failing:
        failing.setattr(states_of_runs, broken, fail)
        with pytest.raises(type(error)):
            resume.load(tmp_path / "out")
    assert resume.load(tmp_path / "out") == ({"step": 100}, [])


def test_an_unfinished_run_that_is_not_gone_on_with_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    first = ResumeState(DECIDES)
    assert first.other() is None
    first.save(1200, {"step": 1200}, [])
    now = {**DECIDES, "train": {"lr": 0.02, "seed": 1}, "code": {"pipeline": "0c"}}
    second = ResumeState(now)
    assert second.other() is None  # it is at work
    first._lock.release()
    assert second.other() == (
        f"{first.folder} holds an unfinished run, at step 1,200, which this one does not go on "
        "with, as it differs: train.lr 0.01, now 0.02; code.pipeline"
    )
    assert ResumeState({**DECIDES, "data": {"tokens": "0d"}}).other() is None
    (state,) = first.folder.glob("state-*.json")
    state.unlink()
    state.mkdir()  # what cannot be read keeps no other run from its work
    assert second.other() is None


def test_train_says_which_setting_keeps_it_from_going_on(interrupted: Path) -> None:
    set_params(interrupted, train__lr=0.02, train__seed=5)
    done = train(interrupted)
    assert done.returncode == 0, done.stderr
    (note,) = (line for line in done.stdout.splitlines() if line.startswith("note: "))
    assert note.endswith("as it differs: train.lr 0.003, now 0.02; train.seed 1337, now 5")


def test_a_model_that_no_memory_holds_is_one_line(interrupted: Path) -> None:
    set_params(interrupted, model__n_embd=2**20)
    done = train(interrupted)
    assert done.returncode == 1
    assert done.stderr.startswith("error: out of memory: lower train.micro_batch_size (now 4)")
    assert done.stderr.count("\n") == 1


def test_with_every_state_damaged_the_run_starts_afresh_and_says_so(interrupted: Path) -> None:
    for state in states(interrupted):
        state.write_bytes(b"x")
    done = train(interrupted)
    assert done.returncode == 0
    assert done.stdout.count("damaged, not used") == 2
    assert "going on" not in done.stdout


@pytest.mark.parametrize("lengths", [256, pytest.param(4096, marks=pytest.mark.slow)])
def test_a_state_cut_at_every_length_is_never_used(interrupted: Path, lengths: int) -> None:
    _, newest = states(interrupted)
    data, record = newest.read_bytes(), newest.with_suffix(".json")
    says = record.read_bytes()
    decides = json.loads(says)["decides"]
    previous = Path.cwd()
    os.chdir(interrupted)
    try:
        resume = ResumeState(decides)
        whole, damaged = resume.load(interrupted / "out")
        assert whole is not None
        assert damaged == []
        for length in range(0, len(data), max(1, len(data) // lengths)):
            newest.write_bytes(data[:length])
            record.write_bytes(says)  # which goes with the state that it says
            state, damaged = resume.load(interrupted / "out")
            assert state is not None
            assert state["step"] == whole["step"] - 1, length
            assert len(damaged) == 1
    finally:
        os.chdir(previous)


def test_a_full_disk_during_a_save_is_one_line_and_the_run_goes_on_later(
    interrupted: Path,
) -> None:
    uninterrupted = interrupted.parent / "whole"
    shutil.copytree(interrupted, uninterrupted)
    shutil.rmtree(uninterrupted / ".cache/train")
    assert train(uninterrupted).returncode == 0
    before = [state.name for state in states(interrupted)]
    limit = max(state.stat().st_size for state in states(interrupted)) // 2
    full = subprocess.run(
        ["sh", "-c", f"ulimit -f {limit // 1024}; trap '' XFSZ; exec python -m pipeline train"],
        cwd=interrupted, env=environment(**SMALL_FILES), capture_output=True, text=True,
    )  # fmt: skip
    assert full.returncode == 1, full.stdout
    assert full.stderr.count("\n") == 1, full.stderr
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    assert [state.name for state in states(interrupted)] == before
    done = train(interrupted)
    assert done.returncode == 0
    assert hashes(interrupted) == hashes(uninterrupted)


def test_a_stage_stopped_by_ctrl_c_has_the_results_of_the_last_run_again(finished: Path) -> None:
    outputs = ("reports/metrics.json", "data/evaluation")
    before = hashes(finished, outputs)
    (finished / "reports/metrics.json").unlink()  # as DVC does
    shutil.rmtree(finished / "data/evaluation")
    stopped = subprocess.run(
        [sys.executable, KILLED, "validate", "1", "SIGINT", "evaluate"],
        cwd=finished, env=environment(DVC_STAGE="evaluate"), capture_output=True, text=True,
    )  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert hashes(finished, outputs) == before


def wait_for_rows(csv: Path, rows: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run has written so many rows; the test's own time limit ends a hang."""
    while not csv.is_file() or csv.read_text().count("\n") <= rows:
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.01)


def wait_for_state(project: Path, step: int) -> None:
    while True:
        names = [path.stem for path in (project / ".cache/train").glob("*/state-*.json")]
        if any(int(name.split("-")[1]) >= step for name in names):
            return
        time.sleep(0.01)


def trainers(project: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if command[-3:] == ["-m", "pipeline", "train"] and str(process.info["cwd"]).startswith(
            str(project)
        ):
            found.append(process)
    return found


ALL = (*OUTPUTS, "reports", "data/evaluation", "dvc.lock", "README.md")


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="needs g++ and Python's headers")
def test_what_is_compiled_may_be_stopped_and_cut_short(tmp_path: Path) -> None:
    project = prepared(tmp_path / "p", train__compile="on")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train"], cwd=project, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    while "cc1plus" not in running(process.pid):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    assert output.splitlines()[-1].startswith("stopped ")

    assert train(project).returncode == 0
    whole = hashes(project)
    for kernel in (project / ".cache/compiled").rglob("*.so"):
        os.truncate(kernel, 100)
    clear(project)
    refused = train(project)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: train.compile: ")
    assert refused.stderr.count("\n") == 1
    assert train(project).returncode == 0
    assert hashes(project) == whole

    trial = tmp_path / "trial" / "g++"  # by which the compiler asks for the processor's vectors
    trial.parent.mkdir()
    trial.write_text(
        "#!/bin/sh\n"
        'for file; do case $file in *.cpp) grep -q avx_chk_kernel "$file" && exit 1; esac; done\n'
        'exec g++ "$@"\n'
    )
    trial.chmod(0o755)
    clear(project)
    shutil.rmtree(project / ".cache/compiled")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "train"], cwd=project, capture_output=True, text=True,
        env=environment(CXX=str(trial)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert hashes(project) == whole

    failing = tmp_path / "g++"
    failing.write_text("#!/bin/sh\n[ $1 = --version ] && exec g++ --version\nexit 1\n")
    failing.chmod(0o755)
    clear(project)
    refused = subprocess.run(
        [sys.executable, "-m", "pipeline", "train"], cwd=project, capture_output=True, text=True,
        env=environment(CXX=str(failing)),
    )  # fmt: skip
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: train.compile: CppCompileError: ")
    assert refused.stderr.endswith("and if that fails too, set train.compile: off\n")

    clear(project)
    room = subprocess.run(
        ["sh", "-c", "ulimit -f 8; trap '' XFSZ; exec python -m pipeline train"], text=True,
        cwd=project, env=environment(**SMALL_FILES), capture_output=True,
    )  # fmt: skip
    assert room.returncode == 1
    assert room.stderr == (
        "error: train.compile: OSError: [Errno 27] File too large; "
        "mend that and run it again, or set train.compile: off\n"
    )
    assert list((project / ".cache/compiled").iterdir())


def running(pid: int) -> list[str]:
    """The names of its processes, and of theirs."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(child.name())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_dvc_killed_leaves_no_trainer_and_the_next_repro_ends_in_the_same_bytes(
    number: str, tmp_path: Path
) -> None:
    # many steps after the last kill: a test that is slow to look must not find the run at its end
    project = make_project(tmp_path / "p", log__save_interval=1e-6, train__max_steps=200)
    run(project, "dvc", "repro", "-q")
    whole = hashes(project, ALL)
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(project), str(clone))
    for rows in (5, 15, 30):
        (clone / "reports/train.csv").unlink(missing_ok=True)  # rows of this run alone are counted
        # a shell that may stay between dvc and the trainer, and outlive dvc: Debian's sh does
        dvc = subprocess.Popen(
            ["dvc", "repro"], cwd=clone, env=environment(SHELL="/bin/sh"), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_rows(clone / "reports/train.csv", rows, dvc)
        if number == "SIGINT":
            os.killpg(dvc.pid, signal.SIGINT)  # what Ctrl-C in a terminal sends
        else:
            dvc.kill()
        dvc.wait()
        psutil.wait_procs(trainers(clone), timeout=60)
        assert trainers(clone) == []
        assert states(clone), (clone / ".cache/train.log").read_text()
    output = run(clone, "dvc", "repro").stdout
    assert "going on from step" in output
    assert hashes(clone, ALL) == whole
    assert run(clone, "git", "status", "--porcelain", "reports/train.csv").stdout != ""


@pytest.mark.slow
def test_a_stopped_temporary_experiment_goes_on(finished: Path) -> None:
    set_params(finished, log__save_interval=1e-6)
    commit(finished)
    change = ("-S", "train.max_steps=150")
    run(finished, "dvc", "exp", "run", "-q", "--temp", "-n", "whole", *change)
    shutil.rmtree(finished / ".dvc/cache/runs", ignore_errors=True)  # no result to take over
    stopped = subprocess.Popen(
        ["dvc", "exp", "run", "--temp", "-n", "stopped", *change], cwd=finished,
        env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_state(finished, 30)
    os.killpg(stopped.pid, signal.SIGINT)
    stopped.wait()
    psutil.wait_procs(trainers(finished), timeout=60)
    again = run(finished, "dvc", "exp", "run", "--temp", "-n", "again", *change)
    assert "going on from step" in again.stdout
    locks = [run(finished, "git", "show", f"{rev('whole', finished)}:dvc.lock").stdout]
    locks.append(run(finished, "git", "show", f"{rev('again', finished)}:dvc.lock").stdout)
    assert locks[0] == locks[1]


def rev(name: str, project: Path) -> str:
    references = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    (found,) = [line for line in references.splitlines() if line.endswith(f"/{name}")]
    return found


@pytest.mark.slow
def test_a_killed_queued_task_goes_on_when_queued_again(finished: Path) -> None:
    set_params(finished, log__save_interval=1e-6)
    commit(finished)
    change = ("-S", "train.max_steps=1500")
    run(finished, "dvc", "exp", "run", "--queue", "-n", "queued", *change)
    subprocess.run(  # no pipe: the worker would hold it open until the queue is empty
        ["dvc", "queue", "start"], cwd=finished, env=environment(), check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_state(finished, 30)
    run(finished, "dvc", "queue", "kill", "-f", "queued")
    psutil.wait_procs(trainers(finished), timeout=60)
    run(finished, "dvc", "queue", "stop", "--kill", check=False)
    again = run(finished, "dvc", "exp", "run", "--temp", "-n", "again", *change)
    assert "going on from step" in again.stdout
    record = run(finished, "git", "show", f"{rev('again', finished)}:reports/metrics.json").stdout
    assert json.loads(record)["train"]["steps"] == 1500


def test_runs_of_a_sweep_that_train_alike_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = ResumeState(DECIDES)
    with pytest.raises(TrainingError, match="another process is training this very run"):
        ResumeState(DECIDES)
    monkeypatch.setenv("DVC_EXP_NAME", "overlap-overlap=0.5")
    waiting = ThreadPoolExecutor(1).submit(ResumeState, DECIDES)
    assert not waiting.done()
    first.remove()
    waiting.result(timeout=60).remove()
