"""verify passes on an untouched tree, and names the file of any single change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_project import commit, environment, make_project, run, set_params, words

from pipeline.model.tensor_file import read_tensors, save_tensors
from pipeline.verify import _against_the_commit, _files_are_whole, _lacking_elsewhere


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


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("data/checkpoints/best.pt", flipped),
        pytest.param("data/tokens/val.bin", flipped, marks=pytest.mark.slow),
        pytest.param(
            "reports/metrics.json",
            lambda data: data.replace(b'"steps": 20', b'"steps": 21'),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "params.yaml",
            lambda data: data.replace(b"seed: 1337", b"seed: 1338", 1),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "params.yaml",
            lambda data: data.replace(b"# read by", b"# Read by", 1),
            marks=pytest.mark.slow,
        ),
        ("pipeline/training/schedule.py", lambda data: data + b"\n"),
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


def test_the_readmes_sections_of_every_command_are_compared(finished: Path) -> None:
    data = (finished / "README.md").read_bytes()
    for name in (b"METRICS", b"SWEEP", b"BENCHMARKS"):
        data = data.replace(b"<!--AUTO:%b:START-->\n" % name, b"<!--AUTO:%b:START-->\n1" % name)
    replace(finished / "README.md", data)
    status, output = verify(finished)
    assert status == 1
    for name in ("METRICS", "SWEEP", "BENCHMARKS"):
        assert f"README.md: section {name}" in output, output


@pytest.mark.slow
def test_what_was_written_over_is_found_though_dvc_was_told_to_take_it(finished: Path) -> None:
    def forge(path: str, old: str, new: str) -> None:
        text = (finished / path).read_text()
        replace(finished / path, text.replace(old, new, 1).encode())

    forge("data/evaluation/generated.json", '"text": "', '"text": "FORGED')
    forge("data/evaluation/positions.csv", "\n1,", "\n1,1")
    forge("data/tokens/meta.json", '"documents": 1', '"documents": 7')
    forge("data/tokens/meta.json", '"license": ', '"license": "mine", "was": ')
    meta = json.loads((finished / "data/tokens/meta.json").read_text())
    meta["splits"]["val"]["bytes"] += 1
    replace(finished / "data/tokens/meta.json", json.dumps(meta).encode())
    statistics = json.loads((finished / "data/tokens/statistics.json").read_text())
    statistics["frequent"][0][2] += 1
    replace(finished / "data/tokens/statistics.json", json.dumps(statistics).encode())
    facts = json.loads((finished / "data/checkpoints/run.json").read_text())
    facts["model"]["parameters"], facts["stopped"] = 999, "patience"
    facts["samples"][0]["text"] = "I never wrote this"
    replace(finished / "data/checkpoints/run.json", json.dumps(facts).encode())
    best = finished / "data/checkpoints/best.pt"
    (finished / "data/checkpoints/step-5.pt").write_bytes(flipped(best.read_bytes()))
    last = read_tensors(finished / "data/checkpoints/last.pt")
    last["history"]["losses"][6] += 1
    (finished / "data/checkpoints/last.pt").unlink()
    save_tensors(finished / "data/checkpoints/last.pt", last)
    loss = (finished / "reports/train.csv").read_text().splitlines()[4].split(",")[3]
    forge("reports/train.csv", loss, "0.5")
    for stage in ("prepare", "train", "evaluate"):
        run(finished, "dvc", "commit", "--force", "--quiet", stage)
    run(finished, "dvc", "repro", "--quiet", "--single-item", "--force", "report")
    commit(finished, "Nothing to see")
    forge("pipeline/__main__.py", "\n", "\n\n")  # no stage's dep, but run by all
    status, output = verify(finished)
    assert status == 1
    assert "ok    dvc.lock" in output
    assert "ok    README and reports" in output
    expected = (
        "data/evaluation/generated.json: not what best.pt gives again",
        "data/evaluation/positions.csv: 1 is 1",
        "data/tokens/meta.json: corpus.documents is ",
        "data/tokens/meta.json: corpus.license is 'mine', by its inputs None",
        "data/tokens/meta.json: splits.val.bytes is ",
        "data/tokens/statistics.json: frequent.0.2 is ",
        "data/checkpoints/run.json: model.parameters is 999, by its inputs ",
        "data/checkpoints/run.json: stopped is 'patience', by last.pt 'max_steps'",
        "data/checkpoints/run.json: its samples are not those of data/checkpoints/samples.txt",
        "data/tokens/meta.json: corpus.bytes is ",
        "data/checkpoints/step-5.pt: ",
        "data/checkpoints/last.pt: its losses are not those of its rows",
        "reports/train.csv: not the rows that last.pt holds",
        "pipeline/__main__.py: differs from the last commit",
    )
    assert [said for said in expected if said not in output] == [], output
    ids = (finished / "data/tokens/test.bin").read_bytes()
    replace(finished / "data/tokens/test.bin", ids[:-2] + bytes([ids[-2] ^ 1]) + ids[-1:])
    for stage in ("prepare", "train", "evaluate"):
        run(finished, "dvc", "commit", "--force", "--quiet", stage)
    status, output = verify(finished)
    assert status == 1
    assert "ok    dvc.lock" in output
    assert "data/tokens/test.bin: found sha256 " in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"prepare__split_by": "document", "prepare__shard_tokens": 500},
        {"prepare__format": "pt", "train__target_loss": 100.0, "model__architecture": "gpt2"},
        {
            "prepare__test_fraction": 0.0,
            "train__patience": 1,
            "train__lr": 1e-9,
            "train__min_lr": 0.0,
        },
    ],
)
@pytest.mark.parametrize("lists", [False, True])
def test_a_run_of_any_kind_passes(tmp_path: Path, changes: dict[str, object], lists: bool) -> None:
    project = make_project(tmp_path / "project", **changes)
    own = project / "data/own"
    if lists:  # 256 is <|endoftext|>, here within a document too
        (own / "words.txt").unlink()
        ids = [torch.tensor([*words(40, seed).encode(), 256, 65]) for seed in range(60)]
        torch.save(ids, own / "lists.pt")
    for number in range(0 if lists else 60):
        (own / f"{number}.txt").write_text(words(40, number))
    run(project, "dvc", "repro", "--quiet")
    commit(project)
    status, output = verify(project)
    assert status == 0, output


def test_a_result_that_dvc_lock_does_not_know_is_named(finished: Path) -> None:
    lock = (finished / "dvc.lock").read_bytes()
    (finished / "dvc.lock").write_bytes(lock[: lock.index(b"  report:")])
    commit(finished)
    status, output = verify(finished)
    assert status == 1
    assert "dvc.lock: reports/report.html of stage report is missing" in output


@pytest.mark.slow  # a fast test runs every stage in a clone too, without `verify`: test_pipeline
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
    assert "note: data/own/words.txt is in neither git nor DVC: another clone" in done.stdout


def test_a_text_that_is_not_as_committed_is_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    (finished / "data/own/book.txt").write_text("a book")
    run(finished, "dvc", "add", "-q", "data/own/book.txt")
    (finished / "data/own/untracked.txt").write_text("a note tells of it")
    run(
        finished, "git", "add", "data/own/book.txt.dvc", "data/own/.gitignore", "data/own/words.txt"
    )
    run(finished, "git", "commit", "-q", "-m", "A book")
    assert _against_the_commit() == []
    for name, change in (
        ("words.txt", "data/own/words.txt"),
        ("book.txt", "data/own/book.txt.dvc"),
    ):
        (finished / "data/own" / name).write_text("another")
        run(finished, "dvc", "add", "-q", "data/own/book.txt")
        assert f"{change}: differs from the last commit" in _against_the_commit()


def test_a_clone_has_a_text_by_the_byte_and_no_file_managers_notes(
    finished: Path, tmp_path: Path
) -> None:
    text = b"one\r\ntwo\r\n"
    (finished / "data/own/windows.txt").write_bytes(text)
    for folder in ("data/own", "data/init", "reports"):
        (finished / folder / ".DS_Store").write_bytes(b"\0")
    commit(finished, "A text with Windows' line ends")
    run(tmp_path, "git", "clone", "-q", str(finished), "clone")
    assert (tmp_path / "clone/data/own/windows.txt").read_bytes() == text
    assert list((tmp_path / "clone").rglob(".DS_Store")) == []


def test_what_is_not_there_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lacking = [line.partition(":")[0] for line in _files_are_whole()]
    assert lacking[:2] == ["data/tokens", "data/checkpoints"]


def test_what_another_clone_lacks_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    assert _lacking_elsewhere() == ""
    for name in ("data/init/best.pt", "data/own/sub/a.txt", "data/own/sub/b.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"mine")
    assert _lacking_elsewhere() == "data/init/best.pt and 2 more are"
    Path("data/init/best.pt.dvc").touch()
    Path("data/own/sub.dvc").touch()
    run(finished, "git", "add", "data/init/best.pt.dvc", "data/own/sub.dvc")
    assert _lacking_elsewhere() == ""
    for key in ("corpus__path", "train__init_from"):
        Path("weights.pt").write_bytes(b"mine")
        for path in ("weights.pt", str(finished / "weights.pt")):
            set_params(finished, **{key: path})
            assert _lacking_elsewhere() == "weights.pt is"
        Path("weights.pt").unlink()
        for path in (str(finished.parent / "books"), "../books"):
            set_params(finished, **{key: path})
            assert _lacking_elsewhere() == f"{path}, outside of the project, is"
        set_params(finished, **{key: "data/own"})
    for named in ("gpt2", "scratch", "hf://somebody/model"):
        set_params(finished, train__init_from=named)
        assert _lacking_elsewhere() == ""


def test_without_git_the_advice_begins_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {}")
    assert _against_the_commit() == [
        "there is no git repository: `git init`, then `git add -A; git commit`"
    ]


SAME_PLATFORM = """
import json
import sys
from pathlib import Path
from pipeline.params import load_params
from pipeline.training.runtime import prepare_process
from pipeline.verify import _same_platform
prepare_process(load_params().train)
path = Path("data/evaluation/run.json")
path.unlink()  # it may be a link into DVC's cache
same = []
for runtime in json.loads(sys.argv[1]):
    path.write_text(json.dumps({"runtime": runtime}))
    same.append(_same_platform())
print(json.dumps(same))
"""


def test_an_evaluation_elsewhere_is_another_platform_and_a_training_elsewhere_none(
    finished: Path,
) -> None:
    runtime = json.loads((finished / "data/evaluation/run.json").read_text())["runtime"]
    assert runtime["precision"] == "fp32"
    cases: list[tuple[dict[str, object], bool]] = [
        ({}, True),
        ({"threads": 3}, False),
        ({"torch": "1.0"}, False),
        ({"cpu": "another"}, False),
    ]
    runtimes = json.dumps([{**runtime, **changes} for changes, _ in cases])
    found = run(finished, "python", "-c", SAME_PLATFORM, runtimes).stdout
    assert json.loads(found) == [same for _, same in cases]
