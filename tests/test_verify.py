"""verify passes on an untouched tree, and names the file of any single change."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_project import commit, environment, run


def verify(project: Path, *arguments: str) -> tuple[int, str]:
    done = run(project, "python", "-m", "pipeline", "verify", *arguments, check=False)
    return done.returncode, done.stdout + done.stderr


def replace(path: Path, data: bytes) -> None:
    assert data != path.read_bytes()
    path.unlink()  # it may be a link into DVC's cache
    path.write_bytes(data)


def test_an_untouched_tree_passes(finished: Path) -> None:
    status, output = verify(finished)
    assert status == 0, output
    assert "every result is what its inputs make" in output


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def digit(data: bytes) -> bytes:
    place = re.search(rb"\d\.\d\d", data)
    assert place
    return data[: place.end() - 1] + b"x" + data[place.end() :]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("data/checkpoints/best.pt", flipped),
        pytest.param("data/tokens/val.bin", flipped, marks=pytest.mark.slow),
        ("reports/metrics.json", lambda data: data.replace(b'"steps": 20', b'"steps": 21')),
        pytest.param(
            "params.yaml",
            lambda data: data.replace(b"seed: 1337", b"seed: 1338", 1),
            marks=pytest.mark.slow,
        ),
        ("params.yaml", lambda data: data.replace(b"# read by", b"# Read by", 1)),
        ("pipeline/training/schedule.py", lambda data: data + b"\n"),
        ("README.md", digit),
        pytest.param("reports/train.csv", flipped, marks=pytest.mark.slow),
        pytest.param("reports/figures/loss.png", flipped, marks=pytest.mark.slow),
    ],
)
def test_one_changed_byte_is_named(finished: Path, path: str, change: object) -> None:
    file = finished / path
    replace(file, change(file.read_bytes()))  # type: ignore[operator]
    status, output = verify(finished)
    assert status == 1
    assert path in output


def test_a_rerun_in_a_clone_gives_identical_bytes(finished: Path) -> None:
    # the text is no part of git, and goes into the clone
    (finished / ".git/info/exclude").write_text("/data/own/words.txt\n")
    run(finished, "git", "rm", "-q", "--cached", "data/own/words.txt")
    commit(finished, "My own text, which stays out of git")
    # no environment is activated: the stages' `python` is not on the PATH
    bare = {**environment(), "PATH": os.defpath}
    command = [sys.executable, "-m", "pipeline", "verify", "--rerun"]
    done = subprocess.run(command, cwd=finished, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical bytes" in done.stdout


def test_facts_that_only_training_knows_are_no_other_platform(finished: Path) -> None:
    path = finished / "data/checkpoints/run.json"
    facts = json.loads(path.read_text())
    program = (
        "from pipeline.params import load_params; from pipeline.verify import _same_platform; "
        "from pipeline.training.runtime import prepare_process; "
        "prepare_process(load_params().train); print(_same_platform())"
    )
    for changes, same in (
        ({}, True),
        ({"micro_batch_size": 4}, True),
        ({"processes": 2, "parallel": "ddp", "threads": 3}, True),
        ({"threads": 3}, False),
        ({"torch": "1.0"}, False),
    ):
        changed = {**facts, "runtime": {**facts["runtime"], **changes}}
        replace(path, json.dumps(changed, indent=1).encode())
        assert run(finished, "python", "-c", program).stdout == f"{same}\n", changes
