"""The stages under a real DVC: what re-runs, what fails clearly, and what a failure leaves."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from tiny_project import make_project, run, set_params, words

from pipeline.__main__ import main

RESULTS = ("data/checkpoints", "data/tokens", "data/raw", "data/evaluation", "reports")


def ran(output: str) -> list[str]:
    """The stages that a repro's output says it ran."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage")]
    return [line.split("'")[1] for line in lines]


def contents(project: Path) -> dict[str, bytes]:
    files = [path for folder in RESULTS for path in (project / folder).rglob("*")]
    return {str(path.relative_to(project)): path.read_bytes() for path in files if path.is_file()}


def test_a_second_repro_runs_nothing(finished: Path) -> None:
    output = run(finished, "dvc", "repro").stdout
    assert ran(output) == []
    assert "Data and pipelines are up to date." in output


def test_a_clone_reproduces_every_tracked_byte(finished: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "-q", str(finished), "clone")
    run(tmp_path / "clone", "dvc", "repro", "-f", "-q")
    assert run(tmp_path / "clone", "git", "status", "--porcelain").stdout == ""
    ours, theirs = contents(finished), contents(tmp_path / "clone")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_rate_re_runs_training_and_what_follows(finished: Path) -> None:
    output = run(finished, "dvc", "exp", "run", "-S", "train.lr=5e-5").stdout
    assert ran(output) == ["train", "evaluate", "report"]
    first_rate = (finished / "reports/train.csv").read_text().splitlines()[2].split(",")[2]
    assert float(first_rate) == 5e-5
    difference = json.loads(run(finished, "dvc", "metrics", "diff", "--json", "HEAD").stdout)
    assert difference["reports/metrics.json"]["val.loss"]["diff"] > 0
    plots = run(finished, "dvc", "plots", "diff", "HEAD")
    assert (finished / "dvc_plots/index.html").is_file(), plots.stderr


@pytest.mark.slow  # as test_report's, through an experiment
def test_a_report_setting_re_runs_the_report_alone(finished: Path) -> None:
    output = run(finished, "dvc", "exp", "run", "-S", "report.dpi=60").stdout
    assert ran(output) == ["report"]


BAD_SETTINGS = [
    ("train.lr=fast", "train.lr: found 'fast'; allowed: auto or a number above 0"),
    pytest.param(
        "model.n_head=5",
        "model.n_head: found 5; allowed: a divisor of n_embd (16)",
        marks=pytest.mark.slow,
    ),
    ("model.block_size=2000", "val split: found"),
    ("train.lr=1e30", "training loss is nan at step 3; no checkpoint was before it"),
    pytest.param("train.device=mps", "train.device: found mps", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("setting", "line"), BAD_SETTINGS)
def test_a_bad_setting_is_one_line_and_leaves_every_result(
    finished: Path, setting: str, line: str
) -> None:
    before = contents(finished)
    failed = run(finished, "dvc", "exp", "run", "-S", setting, check=False)
    errors = [text for text in failed.stderr.splitlines() if text.startswith("error: ")]
    assert failed.returncode != 0
    assert len(errors) == 1
    assert line in errors[0]
    assert "Traceback" not in failed.stderr
    assert contents(finished) == before


def test_ctrl_c_while_a_stage_still_imports_leaves_every_result(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> ModuleType:
        if name == "pipeline.evaluate":
            raise KeyboardInterrupt
        return import_module(name)

    before = contents(finished)
    shutil.rmtree(finished / "data/evaluation")  # as DVC does before the stage runs
    (finished / "reports/metrics.json").unlink()
    monkeypatch.chdir(finished)
    monkeypatch.setenv("DVC_STAGE", "evaluate")
    monkeypatch.setattr("pipeline.__main__.import_module", interrupted)
    assert main(["evaluate"]) == 130
    assert contents(finished) == before
    assert capsys.readouterr().err == (
        "put back from the last run: data/evaluation, reports/metrics.json\n"
    )


def test_an_unknown_setting_is_refused(finished: Path) -> None:
    before = contents(finished)
    assert run(finished, "dvc", "exp", "run", "-S", "train.lrr=1", check=False).returncode != 0
    text = (finished / "params.yaml").read_text().replace("  lr:", "  lrr:")
    (finished / "params.yaml").write_text(text)
    failed = run(finished, "dvc", "repro", check=False)
    assert failed.returncode != 0
    assert "train.lrr: unknown parameter; did you mean lr?" in failed.stderr
    assert contents(finished) == before


BAD_TEXTS = [
    (b"", "empty"),
    (b"good " * 100 + b"\xff\xfe", "words.txt: not UTF-8 at byte 500"),
]


@pytest.mark.parametrize(("text", "line"), BAD_TEXTS)
def test_a_bad_corpus_is_one_line_and_leaves_every_result(
    finished: Path, text: bytes, line: str
) -> None:
    before = contents(finished)
    (finished / "data/own/words.txt").write_bytes(text)
    failed = run(finished, "dvc", "repro", check=False)
    errors = [text for text in failed.stderr.splitlines() if text.startswith("error: ")]
    assert failed.returncode != 0
    assert len(errors) == 1
    assert line in errors[0]
    assert contents(finished) == before


def test_a_cut_off_token_file_is_named(finished: Path) -> None:
    path = finished / "data/tokens/train.bin"
    data = path.read_bytes()
    path.unlink()  # it may be a link into DVC's cache
    path.write_bytes(data[:-7])
    failed = run(finished, "python", "-m", "pipeline", "train", check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "data/tokens/train.bin" in failed.stderr


def test_training_leaves_the_reports_samples_to_report(finished: Path) -> None:
    before = (finished / "reports/samples.txt").read_bytes()
    run(finished, "dvc", "repro", "-q", "--single-item", "--force", "train")
    assert (finished / "reports/samples.txt").read_bytes() == before
    on_the_way = (finished / "data/checkpoints/samples.txt").read_bytes()
    assert on_the_way.startswith(b"=== step 10 ===")
    assert before.startswith(on_the_way)
    assert "up to date" in run(finished, "dvc", "status").stdout


def test_without_a_test_split_the_pipeline_still_runs(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", prepare__test_fraction=0.0, train__max_steps=2)
    run(project, "dvc", "repro", "evaluate")
    assert "test" not in json.loads((project / "reports/metrics.json").read_text())


def test_another_text_by_path(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(words(900, seed=2))
    set_params(finished, corpus__path=str(tmp_path / "mine.txt"))
    assert ran(run(finished, "dvc", "repro", "train").stdout) == ["fetch", "prepare", "train"]


def test_a_run_beside_dvc_leaves_nothing_of_the_run_before(finished: Path) -> None:
    for name in ("step-5.pt", "samples.txt", ".best.pt.4711.tmp"):
        (finished / "data/checkpoints" / name).unlink(missing_ok=True)
        (finished / "data/checkpoints" / name).write_text("of a run before")
    run(finished, "python", "-m", "pipeline", "train")
    left = {path.name for path in (finished / "data/checkpoints").iterdir()}
    assert left == {"best.pt", "last.pt", "run.json", "samples.txt"}
    assert "of a run before" not in (finished / "data/checkpoints/samples.txt").read_text()


def test_what_a_sweep_without_a_record_has_left_goes(finished: Path) -> None:
    sweeps = finished / "reports/sweeps"
    (sweeps / "old").mkdir()
    (sweeps / "old.csv").write_text("name,best,state,error,train.lr\n")
    (sweeps / "old.md").write_text("# Sweep old\n\n![Loss](old/loss.png)")
    (sweeps / "old/loss.png").write_bytes(b"\x89PNG")
    (sweeps / "mine").mkdir()
    for name in ("notes.md", "mine.csv", "mine/photo.png", "mine/loss.png", "old/photo.png"):
        (sweeps / name).write_text("people's own")
    refused = run(finished, "python", "-m", "pipeline", "sweep", "table", "--check", check=False)
    assert refused.returncode == 1
    for name in ("old.csv", "old.md", "old/loss.png"):
        assert f"reports/sweeps/{name}" in refused.stderr
    run(finished, "python", "-m", "pipeline", "sweep", "table")
    left = {path.relative_to(sweeps).as_posix() for path in sweeps.rglob("*") if path.is_file()}
    assert left == {
        "README.md", "notes.md", "mine.csv", "mine/photo.png", "mine/loss.png", "old/photo.png",
    }  # fmt: skip
