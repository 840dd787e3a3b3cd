"""verify passes on an untouched tree, and names the file of any single change."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_project import environment, run


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
    # no environment is activated: the stages' `python` is not on the PATH
    bare = {**environment(), "PATH": os.defpath}
    command = [sys.executable, "-m", "pipeline", "verify", "--rerun"]
    done = subprocess.run(command, cwd=finished, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical bytes" in done.stdout
