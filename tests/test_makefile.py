"""Proves that the commands are listed, need nothing installed beforehand, and install once."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = {
    "help",
    "setup",
    "repro",
    "report",
    "sweep",
    "bench",
    "test",
    "test-all",
    "lint",
    "demo",
    "remote",
    "clean",
}
PYTHON = """#!/bin/sh
# stands for a Python: makes a .venv whose python notes down what it is asked
[ "$1" = -c ] && exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "$@" >> installs.txt\\n' > "$3/bin/python"
chmod +x "$3/bin/python"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile in a folder with a space in its name."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / "fake-python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # an outer make must not hand its flags on
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_make_alone_lists_every_target_with_a_line(project: Path) -> None:
    listed = make(project)
    assert listed.returncode == 0
    lines = dict(re.findall(r"^make (\S+) +(\S.*)$", listed.stdout, re.MULTILINE))
    assert set(lines) == TARGETS
    assert set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split()) == TARGETS
    assert not (project / ".venv").exists()


def test_setup_installs_at_exact_versions_and_again_only_when_these_change(project: Path) -> None:
    def installs() -> list[str]:
        done = make(project, "setup", "PYTHON=./fake-python")
        assert done.returncode == 0, done.stderr
        asked = (project / "installs.txt").read_text().splitlines()
        return [line for line in asked if "pip install" in line]

    pip, everything = installs()
    assert pip.startswith("-m pip install")
    assert pip.endswith("-c constraints.txt pip")
    assert everything.startswith("-m pip install")
    assert everything.endswith("-c constraints.txt -e .[dev]")
    assert len(installs()) == 2
    stamp = (project / ".venv/.installed").stat().st_mtime
    os.utime(project / "constraints.txt", (stamp + 10, stamp + 10))
    assert len(installs()) == 4


def test_setup_makes_the_page_of_the_plots_once(project: Path) -> None:
    asked = project / "installs.txt"
    make(project, "setup", "PYTHON=./fake-python")
    assert asked.read_text().splitlines()[-1] == "-m pipeline plots"
    (project / ".dvc").mkdir()
    (project / ".dvc/plots.html").touch()
    before = asked.read_text()
    assert make(project, "setup", "PYTHON=./fake-python").returncode == 0
    assert asked.read_text() == before


@pytest.mark.parametrize(
    "target", ["repro", "report", "sweep", "bench", "test", "test-all", "lint", "demo"]
)
def test_what_needs_the_tools_installs_them_first(project: Path, target: str) -> None:
    planned = make(project, "-n", target).stdout
    assert planned.index("-m venv .venv") < planned.index(".venv/bin/python -m pip install")


@pytest.mark.parametrize("python", ["false", "no-such-python"])
def test_another_python_is_refused_in_one_line_that_says_how_to_go_on(
    project: Path, python: str
) -> None:
    refused = make(project, "setup", f"PYTHON={python}")
    assert refused.returncode != 0
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith("make: " + python))
    assert line == f"make: {python} is not Python 3.10 to 3.13; name one: make PYTHON=python3.12"
    assert not (project / ".venv").exists()


def test_report_forces_the_one_stage(project: Path) -> None:
    assert "dvc repro --single-item --force report" in make(project, "-n", "report").stdout


@pytest.mark.parametrize("named", ["", " "])
def test_a_remote_without_a_name_is_refused(project: Path, named: str) -> None:
    make(project, "setup", "PYTHON=./fake-python")
    refused = make(project, "remote", "PYTHON=./fake-python", f"REMOTE={named}")
    assert refused.returncode != 0
    line = "make: REMOTE: found nothing; allowed: a folder, s3://... or ssh://..."
    assert line in refused.stderr.splitlines()
    assert "dvc push" not in refused.stdout


def test_ci_runs_what_people_run() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "- run: .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
