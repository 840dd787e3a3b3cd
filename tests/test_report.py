"""Proves what `report` promises, in a real DVC repository whose other stages hand over a small run.

It writes the same bytes again, touches no prose, repairs what was edited by hand without a change
to dvc.lock, and `--check` names whatever is not what the results say.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_run import GENERATED, RUN, metrics, write_run
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from pipeline.__main__ import main
from pipeline.params import load_params
from pipeline.reporting.markdown import code, table
from pipeline.reporting.plots import CAPTIONS
from pipeline.reporting.results import read_results
from pipeline.reporting.sections import fenced, readme_sections
from pipeline.training.samples import format_samples

ROOT = Path(__file__).parent.parent
NAMES = ("SUMMARY", "PLOT", "METRICS", "LOGS", "SAMPLES", "PROVENANCE")
README = (
    "# A title\r\n"
    + "".join(
        f"prose before {name}\n<!--AUTO:{name}:START--><!--AUTO:{name}:END-->\n" for name in NAMES
    )
    + "\tthe end, without a newline  "
)
DVC_YAML = """
stages:
  train:
    cmd: cp -r made/checkpoints made/tokens data/ && cp made/train.csv reports/
    params: [corpus, prepare, model, train]
    deps: [made/checkpoints, made/tokens, made/train.csv, code/train.py]
    outs: [data/checkpoints, data/tokens]
    plots: [reports/train.csv: {cache: false}]
  evaluate:
    cmd: cp -r made/evaluation data/ && cp made/metrics.json reports/
    params: [evaluate, sample]
    deps: [made/evaluation, made/metrics.json, data/checkpoints, data/tokens]
    outs: [data/evaluation]
    metrics: [reports/metrics.json: {cache: false}]
  report:
    cmd: python -m pipeline report
    params: [corpus, prepare, model, train, evaluate, sample, report]
    deps: [data/tokens/meta.json, data/checkpoints, data/evaluation,
      reports/metrics.json, reports/train.csv, code/train.py]
    outs:
      - reports/figures: {cache: false, persist: true}
      - reports/provenance.json: {cache: false, persist: true}
      - reports/report.html: {cache: false, persist: true}
      - reports/results.md: {cache: false, persist: true}
      - reports/samples.txt: {cache: false, persist: true}
"""


def dvc(*arguments: str, status: int = 0) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    run = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    assert run.returncode == status, run.stdout
    return run.stdout


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro`."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site-cache"))
        write_run(folder)
        Path("made").mkdir()
        for name in ("data/checkpoints", "data/tokens", "data/evaluation"):
            Path(name).rename(f"made/{Path(name).name}")
        for name in ("reports/metrics.json", "reports/train.csv"):
            Path(name).rename(f"made/{Path(name).name}")
        Path("code").mkdir()
        Path("code/train.py").write_text("# trains\n")
        Path("dvc.yaml").write_text(DVC_YAML)
        shutil.copy(ROOT / "params.yaml", folder)
        edit("params.yaml", b"dpi: 120", b"dpi: 50")
        Path("README.md").write_bytes(README.encode())
        dvc("init", "--no-scm", "--quiet")
        dvc("config", "core.analytics", "false")
        dvc("repro")
    return folder


@pytest.fixture
def project(reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project to change, as the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(reported, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site-cache"))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file that people or git see."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".dvc" not in path.relative_to(folder).parts
    }


def edit(path: str, old: bytes, new: bytes) -> None:
    data = Path(path).read_bytes()
    assert old in data
    Path(path).write_bytes(data.replace(old, new, 1))


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that has to fail with status 1."""
    capsys.readouterr()
    assert main(list(arguments)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_repro_writes_every_file_and_the_check_agrees(project: Path) -> None:
    written = {"results.md", "report.html", "samples.txt", "provenance.json"}
    inputs = {"metrics.json", "train.csv"}
    assert {path.name for path in Path("reports").iterdir()} == {*written, *inputs, "figures"}
    assert main(["report", "--check"]) == 0
    assert "up to date" in dvc("status")


def test_a_second_report_changes_nothing(project: Path) -> None:
    before = tree(project)
    times = {path: path.stat().st_mtime_ns for path in Path("reports").rglob("*")}
    assert main(["report"]) == 0
    assert tree(project) == before
    assert {path: path.stat().st_mtime_ns for path in Path("reports").rglob("*")} == times


def test_prose_outside_the_markers_is_what_it_was_to_the_byte(project: Path) -> None:
    text = Path("README.md").read_bytes()
    for name in NAMES:
        start, end = (f"<!--AUTO:{name}:{kind}-->".encode() for kind in ("START", "END"))
        before, rest = text.split(start)
        inside, after = rest.split(end)
        assert inside.strip()
        text = before + start + end + after
    assert text == README.encode()


def test_check_writes_nothing(project: Path) -> None:
    edit("README.md", b"perplexity 31.51", b"perplexity 11.51")
    edit("reports/results.md", b"# Results", b"# Result")
    before = tree(project)
    assert main(["report", "--check"]) == 1
    assert tree(project) == before


def test_every_section_with_one_changed_character_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("README.md").read_bytes()
    for name in NAMES:
        start = text.index(f"<!--AUTO:{name}:START-->".encode())
        end = text.index(f"<!--AUTO:{name}:END-->".encode())
        inside = text[start + len(name) + 20 : end]
        digit = re.search(rb"\d", inside) or re.search(rb"\w", inside)  # PLOT has no digit
        assert digit
        at = start + len(name) + 20 + digit.start()
        text = text[:at] + (b"8" if text[at : at + 1] == b"7" else b"7") + text[at + 1 :]
    Path("README.md").write_bytes(text)
    line = error_line(capsys, "report", "--check")
    named = ", ".join(f"README.md: section {name}" for name in NAMES)
    assert line == f"error: {named}: not what the results say; run `make report`"


def test_changed_and_missing_files_are_named_and_repaired(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(project)
    inputs = {"reports/metrics.json", "reports/train.csv"}
    written = sorted(name for name in before if name.startswith("reports/") and name not in inputs)
    assert len(written) == 4 + 2 * len(CAPTIONS)
    for name in written:
        Path(name).write_bytes(before[name][:-1] + bytes([before[name][-1] ^ 1]))
    line = error_line(capsys, "report", "--check")
    assert sorted(line.removeprefix("error: ").split(": not what")[0].split(", ")) == written
    for name in written:
        Path(name).unlink()
    assert error_line(capsys, "report", "--check") == line
    assert main(["report"]) == 0
    assert tree(project) == before


def test_a_metric_newer_than_the_readme_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("made/metrics.json", b"3.4502", b"3.4401")
    dvc("repro", "evaluate")
    line = error_line(capsys, "report", "--check")
    assert "README.md: section METRICS" in line
    assert "reports/results.md" in line


@pytest.mark.parametrize(
    ("change", "stage", "named"),
    [
        (lambda: edit("reports/metrics.json", b"3.4502", b"3.4401"), "evaluate", "metrics.json"),
        (lambda: edit("data/checkpoints/best.pt", b"best", b"Best"), "train", "data/checkpoints"),
        (lambda: edit("params.yaml", b"lr: auto", b"lr: 6.0e-3"), "train", "train"),
        (lambda: edit("code/train.py", b"#", b"##"), "train", "code/train.py modified"),
    ],
)
def test_stale_inputs_are_refused_and_earlier_results_stay(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[], None],
    stage: str,
    named: str,
) -> None:
    """A number must not be written beside inputs that did not make it."""
    change()
    before = tree(project)
    for arguments in (["report"], ["report", "--check"]):
        line = error_line(capsys, *arguments)
        assert line.startswith(f"error: stage {stage} is stale (")
        assert named in line
        assert line.endswith("run `dvc repro`")
    assert tree(project) == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "data/evaluation",
            "stage evaluate: data/evaluation: not here; `dvc pull` (or `dvc checkout`) brings it, "
            "`dvc repro` makes it again",
        ),
        ("code/train.py", "code/train.py: not here; `dvc pull` or git brings it"),
    ],
)
def test_what_is_only_absent_can_be_brought(
    project: Path, capsys: pytest.CaptureFixture[str], path: str, said: str
) -> None:
    shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
    assert error_line(capsys, "report") == f"error: {said}"


def test_forcing_the_stage_repairs_the_readme_and_leaves_dvc_lock(project: Path) -> None:
    before = tree(project)
    edit("README.md", b"perplexity 31.51", b"perplexity 11.51")
    dvc("repro", "--single-item", "--force", "report")
    assert tree(project) == before


def test_a_failing_stage_leaves_the_earlier_report(project: Path) -> None:
    edit("README.md", b"<!--AUTO:LOGS:END-->", b"")
    edit("params.yaml", b"dpi: 50", b"dpi: 60")
    before = tree(project)
    output = dvc("repro", status=255)
    assert "error: README.md: line " in output
    assert tree(project) == before


@pytest.mark.slow
def test_a_new_report_setting_runs_report_alone(project: Path) -> None:
    edit("params.yaml", b"smoothing: 0.2", b"smoothing: 0.5")
    output = dvc("repro")
    assert "Running stage 'report'" in output
    assert output.count("Running stage") == 1
    assert main(["report", "--check"]) == 0


def test_a_figure_that_is_no_longer_drawn_is_removed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("reports/figures/old.png").write_bytes(b"old")
    assert "error: reports/figures/old.png:" in error_line(capsys, "report", "--check")
    assert main(["report"]) == 0
    assert not Path("reports/figures/old.png").exists()


def test_a_file_of_ones_own_among_the_figures_stays_and_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path("reports/figures/notes.md")
    mine.write_text("mine")
    assert f"error: {mine}: found among the figures" in error_line(capsys, "report")
    assert mine.read_text() == "mine"
    mine.unlink()
    Path("reports/figures/mine").mkdir()
    for left in ("data/checkpoints/.DS_Store", "reports/figures/Thumbs.db"):
        Path(left).write_text("a file manager's")
    shutil.copy(ROOT / ".dvcignore", ".")
    assert main(["report"]) == 0
    assert "DS_Store" not in Path("reports/provenance.json").read_text()


def test_results_that_are_here_and_not_in_dvcs_cache_are_named_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(".dvc/cache")
    line = error_line(capsys, "report", "--check")
    assert "not in cache; `dvc commit train` puts it into DVC's cache if it is unchanged" in line
    dvc("commit", "train")
    assert "stage evaluate" in error_line(capsys, "report", "--check")


def test_a_missing_readme_is_an_error_of_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("README.md").unlink()
    for command in (["report"], ["sweep", "table"], ["bench", "--check"]):
        assert "README.md: not found" in error_line(capsys, *command)


def test_outside_a_dvc_repository_it_is_an_error_of_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(".dvc")
    assert "dvc status:" in error_line(capsys, "report")


def test_samples_are_those_of_training_then_of_the_finished_model(project: Path) -> None:
    text = Path("reports/samples.txt").read_text(encoding="utf-8")
    assert text == format_samples([*RUN["samples"], *GENERATED])


def test_every_metric_stands_in_the_readme(project: Path) -> None:
    text = Path("README.md").read_text(encoding="utf-8")
    for shown in ("3.0412", "2.9017 at step 2,470", "3.0688", "3.1947 at step 2,500", "2,560,000"):
        assert shown in text
    for split in ("| val | 3.4713 | 32.18 | 1.8467 |", "| test | 3.4502 | 31.51 | 1.8312 |"):
        assert split in text
    assert "1.9 times the train text" in text  # 2,560,000 of 1,371,000
    for values in metrics()["baselines"].values():  # type: ignore[attr-defined]
        assert f"| {values['bits_per_byte']:.4f} |" in text


def test_report_and_its_check_import_no_torch(project: Path) -> None:
    code = (
        "import sys; from pipeline.__main__ import main; status = main(['report', '--check']);"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_a_test_split_the_result_is_read_off_val(project: Path) -> None:
    results = read_results()
    del results.metrics["test"]
    origin = json.loads(Path("reports/provenance.json").read_text(encoding="utf-8"))
    sections = readme_sections(results, origin)
    assert "On the val text" in sections["SUMMARY"]
    assert "**1.847 bits per byte**" in sections["SUMMARY"]
    assert "| test |" not in sections["METRICS"]


@pytest.mark.parametrize("stopped", ["target_loss", "patience"])
def test_an_early_stop_is_told(project: Path, stopped: str) -> None:
    results = read_results()
    results.run["stopped"] = stopped
    origin = json.loads(Path("reports/provenance.json").read_text(encoding="utf-8"))
    assert "It stopped early" in readme_sections(results, origin)["SUMMARY"]


def test_a_text_cannot_leave_its_fence() -> None:
    assert fenced("a ```` b\n```\n") == "`````text\na ```` b\n```\n`````"


@pytest.mark.parametrize(
    "value", ["a  b", "`", "a`b", "``a``", "*a* <b> __c__", "a\\nb", " ", "'x'"]
)
def test_a_value_in_code_type_is_read_as_it_is(value: str) -> None:
    html = MarkdownIt("commonmark").render(f"x {code(value)} y")
    assert html == f"<p>x <code>{escapeHtml(value)}</code> y</p>\n"


def test_the_prompt_of_a_sample_is_code(project: Path) -> None:
    results = read_results()
    results.generated[0]["prompt"] = "<details>*a*"
    origin = json.loads(Path("reports/provenance.json").read_text(encoding="utf-8"))
    assert "prompt `'<details>*a*'`, " in readme_sections(results, origin)["SAMPLES"]


def test_weights_from_elsewhere_may_have_seen_the_test_text(project: Path) -> None:
    results = read_results()
    origin = json.loads(Path("reports/provenance.json").read_text(encoding="utf-8"))
    assert "which it has never seen" in readme_sections(results, origin)["SUMMARY"]
    results.run["init_from"] = {"source": "gpt2", "sha256": "a" * 64, "file": ""}
    said = readme_sections(results, origin)["SUMMARY"]
    assert "started from `gpt2` and trained for" in said
    assert "never seen" not in said


@pytest.mark.parametrize(
    ("form", "shards", "said"),
    [
        ("bin", None, "without its header of 128 bytes;"),
        ("bin", [{}], "without its header of 128 bytes, where there are several the list"),
        ("pt", None, "their ids, 2 or 4 bytes each;"),
    ],
)
def test_what_is_hashed_is_told_as_it_is(project: Path, form: str, shards: Any, said: str) -> None:
    origin = json.loads(Path("reports/provenance.json").read_text(encoding="utf-8"))
    origin["tokens"]["format"] = form
    if shards is not None:
        origin["tokens"]["splits"]["train"]["shards"] = shards
    assert said in readme_sections(read_results(), origin)["PROVENANCE"]


def test_an_evaluation_elsewhere_is_told_by_what_differs(project: Path) -> None:
    origin = json.loads(Path("reports/provenance.json").read_text(encoding="utf-8"))
    assert "Evaluated on another" not in readme_sections(read_results(), origin)["PROVENANCE"]
    origin["evaluated_on"] |= {"torch": "2.14.0", "gpu": "one"}
    said = readme_sections(read_results(), origin)["PROVENANCE"]
    assert "Evaluated on another: torch `2.14.0`, gpu `one`.\n" in said


def test_numbers_stand_right_and_bars_stay_inside_their_cell() -> None:
    assert (
        table(("name", "n"), [("a|b", "1,234")])
        == "| name | n |\n| --- | ---: |\n| a\\|b | 1,234 |"
    )


def test_settings_of_the_run_stand_in_results_md(project: Path) -> None:
    text = Path("reports/results.md").read_text(encoding="utf-8")
    assert f"| `train.lr` | `{load_params().train.lr}` |" in text
    assert '| `sample.prompt` | `"ROMEO:\\n"` |' in text
