"""Fixtures that several test files share."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_project import commit, make_project, run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")

# whole runs: of two workers one would end alone with what takes longest, were it last
FIRST = ("test_resume", "test_verify", "test_trace", "test_finetune", "test_pipeline")

# tests run side by side: threads that outnumber the cores wait for each other, many times slower
os.environ["OMP_NUM_THREADS"] = "1"

# a shell's job in the background has Ctrl-C ignored, and so would have all that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in FIRST)


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


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium that logs its requests and what pages write to its console."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra demo")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        f"--user-data-dir={tmp_path / 'chromium'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()
