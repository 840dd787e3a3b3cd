"""Proves that provenance.json names everything that made the results, by content and nothing else.

Nothing else: no commit, date or path of the machine, or a fresh clone would give other bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_run import EVALUATION, META, RUN, write_run

from pipeline.errors import ReportError
from pipeline.params import load_params
from pipeline.reporting.provenance import provenance
from pipeline.reporting.results import read_results
from pipeline.reporting.stages import Stage, read_stages

ROOT = Path(__file__).parent.parent
STAGES = [
    Stage("prepare", ("code/shared.py", "code/prepare.py"), ("corpus", "prepare")),
    Stage("train", ("code/shared.py", "code/train.py"), ("model", "train")),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_project(folder: Path) -> None:
    write_run(folder)
    (folder / "code").mkdir()
    for name in ("shared", "prepare", "train"):
        (folder / f"code/{name}.py").write_text(f"# {name}\n")
    shutil.copy(ROOT / "params.yaml", folder)


def current() -> dict[str, Any]:
    return provenance(read_results(), STAGES, load_params())


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new, 1), encoding="utf-8")


def test_hashes_are_those_of_the_files(project: Path) -> None:
    found = current()
    for group, files in (
        ("code", ("code/prepare.py", "code/shared.py", "code/train.py")),
        ("results", ("reports/metrics.json", "reports/train.csv")),
    ):
        for name in files:
            expected = hashlib.sha256((project / name).read_bytes()).hexdigest()
            assert found[group][name] == expected
    best = hashlib.sha256(b"the best weights").hexdigest()
    assert found["checkpoints"]["best.pt"] == best
    assert found["corpus"] == META["corpus"]
    assert found["platform"] == RUN["runtime"]
    assert found["evaluated_on"] == EVALUATION["runtime"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda: edit("params.yaml", "lr: auto", "lr: 6.0e-3"), {"parameters.train"}),
        (lambda: edit("params.yaml", "errors: strict", "errors: replace"), {"parameters.corpus"}),
        (lambda: edit("code/train.py", "#", "##"), {"code.code/train.py", "stages.train"}),
        (
            lambda: edit("code/shared.py", "#", "##"),
            {"code.code/shared.py", "stages.train", "stages.prepare"},
        ),
        (lambda: edit("data/checkpoints/last.pt", "l", "L"), {"checkpoints.last.pt"}),
        (lambda: edit("reports/train.csv", "0", "1"), {"results.reports/train.csv"}),
        (lambda: edit("data/tokens/meta.json", "1" * 64, "9" * 64), {"tokens.splits"}),
    ],
)
def test_a_change_shows_where_it_was_made_and_nowhere_else(
    project: Path, change: Callable[[], None], expected: set[str]
) -> None:
    before = current()
    change()
    after = current()
    assert {f"{g}.{k}" for g in before for k in before[g] if before[g][k] != after[g][k]} == (
        expected
    )


@pytest.mark.parametrize(
    ("old", "new"), [("  lr: auto ", "  lr: 0.003 "), ("save_interval: auto", "save_interval: 61")]
)
def test_spelling_and_what_cannot_change_a_result_leave_no_trace(
    project: Path, old: str, new: str
) -> None:
    before = current()
    edit("params.yaml", old, new)
    assert current() == before


def test_it_is_the_same_in_another_folder_at_another_time(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.dumps(current())
    elsewhere = project / "deeper" / "elsewhere"
    elsewhere.mkdir(parents=True)
    write_project(elsewhere)
    monkeypatch.chdir(elsewhere)
    assert json.dumps(current()) == before
    assert str(project) not in before


def test_a_listed_file_that_is_missing_is_an_error_of_one_line(project: Path) -> None:
    (project / "code/train.py").unlink()
    with pytest.raises(
        ReportError, match=r"code/train\.py: not found; dvc\.yaml lists it"
    ) as error:
        current()
    assert "\n" not in str(error.value)


def test_stages_are_read_from_the_real_dvc_yaml() -> None:
    stages = {stage.name: stage for stage in read_stages(ROOT / "dvc.yaml")}
    assert list(stages) == ["fetch", "prepare", "train", "evaluate", "report"]
    assert "pipeline/model/gpt.py" in stages["train"].code
    assert stages["train"].params == ("model", "train")
