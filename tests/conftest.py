"""Fixtures that several test files share."""

import os
import shutil
from pathlib import Path

import pytest
from tiny_project import commit, make_project, run

# tests run side by side: threads that outnumber the cores wait for each other, many times slower
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def _finished_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("template") / "project")
    run(folder, "dvc", "repro", "-q")
    commit(folder, "Results")
    return folder


@pytest.fixture
def finished(_finished_template: Path, tmp_path: Path) -> Path:
    """A copy of a tiny project whose `dvc repro` has succeeded and is committed."""
    return Path(shutil.copytree(_finished_template, tmp_path / "project", symlinks=True))
