"""A number leads back to the text it came from, and a line that does not hold is named."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from tiny_project import commit, run, set_params

from pipeline.__main__ import main
from pipeline.errors import ReportError
from pipeline.reporting import revisions
from pipeline.reporting.lineage import Node, check_path, find_value
from pipeline.reporting.revisions import Revision, WorkingTree, resolve
from pipeline.trace import _drawn


def trace(project: Path, *arguments: str, check: bool = True) -> dict[str, object]:
    done = run(project, "python", "-m", "pipeline", "trace", "--json", *arguments, check=check)
    return dict(json.loads(done.stdout))


def lines(node: dict[str, object]) -> list[str]:
    inner = [line for child in node.get("children", []) for line in lines(child)]
    return [f"{node['text']} {node.get('problem', '')}".strip(), *inner]


def corpus_sha256(project: Path) -> str:
    return str(json.loads((project / "data/raw/manifest.json").read_text())["sha256"])


@pytest.mark.parametrize(
    "name", ["val.perplexity", "train.steps", "baselines.xz.bits_per_byte", "loss", "samples"]
)
def test_every_kind_of_result_ends_at_the_corpus(finished: Path, name: str) -> None:
    text = "\n".join(lines(trace(finished, name)))
    assert corpus_sha256(finished) in text
    for expected in (
        "stage train",
        "stage fetch",
        "params.yaml train",
        "pipeline/train.py",
        "torch",
    ):
        assert expected in text, expected


def test_no_line_is_cut_in_a_pipe(finished: Path) -> None:
    text = run(finished, "python", "-m", "pipeline", "trace", "val.loss").stdout
    assert [line.rstrip() for line in text.splitlines() if corpus_sha256(finished) in line]
    shown = [line.lstrip("│├└─ ") for line in text.splitlines()]
    assert [line.rstrip() for line in shown] == lines(trace(finished, "val.loss"))


def test_what_is_recorded_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "params.yaml sample.prompt [/b] I :heart: you"
    Console(width=200).print(_drawn(Node(text, "wrong [red]", [Node(text)])))
    assert [line.strip("└─ ") for line in capsys.readouterr().out.splitlines()] == [
        f"{text}: wrong [red]",
        text,
    ]


def test_the_commit_that_holds_code_and_parameters_is_found(finished: Path) -> None:
    head = run(finished, "git", "rev-parse", "HEAD").stdout.strip()
    assert head in lines(trace(finished, "val.loss"))


def test_a_later_commit_of_prose_is_listed_beside_the_first(finished: Path) -> None:
    (finished / "notes.txt").write_text("prose")
    commit(finished)
    text = "\n".join(lines(trace(finished, "val.loss")))
    assert run(finished, "git", "rev-parse", "HEAD").stdout.strip() in text
    assert run(finished, "git", "rev-parse", "HEAD~1").stdout.strip() in text


def test_an_uncommitted_setting_is_named(finished: Path) -> None:
    set_params(finished, train__lr=0.001)
    run(finished, "dvc", "repro", "-q", "evaluate")
    found = trace(finished, "val.loss", check=False)
    assert any("uncommitted: params.yaml" in line for line in lines(found))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("reports/metrics.json", "val.loss"),
        ("pipeline/training/loop.py", "val.loss"),
        ("data/checkpoints/best.pt", "val.loss"),
        ("data/tokens/train.bin", "samples"),
    ],
)
def test_a_changed_byte_is_named_with_a_non_zero_exit(finished: Path, path: str, name: str) -> None:
    file = finished / path
    data = file.read_bytes()
    file.unlink()
    changed = data.replace(b'"steps": 20', b'"steps": 21')
    file.write_bytes(changed if changed != data else data[:-1] + bytes([data[-1] ^ 1]))
    done = run(finished, "python", "-m", "pipeline", "trace", name, check=False)
    assert done.returncode == 1
    assert Path(path).parts[0] in done.stderr


@pytest.mark.slow
def test_an_experiment_and_an_older_commit_are_traced_without_checking_them_out(
    finished: Path,
) -> None:
    ours = trace(finished, "val.loss")["text"]
    run(finished, "dvc", "exp", "run", "-q", "-n", "faster", "-S", "train.lr=0.002")
    theirs = trace(finished, "val.loss", check=False)["text"]  # of parameters not committed
    run(finished, "git", "checkout", "-q", "--force", "HEAD")
    run(finished, "dvc", "checkout", "-q")
    assert trace(finished, "val.loss", "--rev", "HEAD")["text"] == ours
    found = trace(finished, "val.loss", "--rev", "faster")
    assert found["text"] == theirs != ours
    assert corpus_sha256(finished) in "\n".join(lines(found))


def test_an_unknown_name_lists_what_there_is(finished: Path) -> None:
    failed = run(finished, "python", "-m", "pipeline", "trace", "val.los", check=False)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "val.loss" in failed.stderr


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (
            "dvc.lock",
            "{",
            "error: dvc.lock: not valid YAML: line 1: expected the node content, but found "
            "'<stream end>'\n",
        ),
        (
            "dvc.lock",
            "<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> other",
            "error: dvc.lock: line 1: a merge conflict; choose the settings in params.yaml, then "
            "`git checkout --ours dvc.lock README.md reports` and `dvc repro`\n",
        ),
        (
            "dvc.lock",
            "schema: 2",
            "error: dvc.lock: found no stages; `git checkout dvc.lock` brings it, or ",
        ),
        (
            "dvc.lock",
            "stages: {train: {outs: [{path: reports/train.csv}]}}",
            "error: dvc.lock: stage train: reports/train.csv: found no md5; `git checkout ",
        ),
        ("reports/metrics.json", "[1]", "error: reports/metrics.json: not an object in JSON; "),
        (
            "data/checkpoints/run.json",
            "{",
            "platform data/checkpoints/run.json: not JSON in UTF-8; ",
        ),
        ("data/raw/manifest.json", "{", "corpus data/raw/manifest.json: not JSON in UTF-8; "),
    ],
)
def test_a_damaged_file_is_named(
    finished: Path,
    path: str,
    text: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(finished)
    Path(path).unlink()
    Path(path).write_text(text)
    assert main(["trace", "--json", "samples" if "metrics" not in path else "val.loss"]) == 1
    captured = capsys.readouterr()
    where = json.loads(captured.out) if captured.out else {"text": captured.err}
    assert said in "\n".join(lines(where)) + "\n"


@pytest.fixture
def _dvcignore_of_others() -> Iterator[None]:
    revisions.dvcignore.cache_clear()
    yield
    revisions.dvcignore.cache_clear()


@pytest.mark.usefixtures("_dvcignore_of_others")
def test_what_dvcignore_names_is_no_part_of_a_folder(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    before = WorkingTree().md5("data/own")
    (finished / "data/own/old.bak").write_text("x")
    assert WorkingTree().md5("data/own") != before
    (finished / ".dvcignore").write_text("*.bak\n")
    revisions.dvcignore.cache_clear()
    assert WorkingTree().md5("data/own") == before
    commit(finished)
    assert Revision("HEAD").md5("data/own") == before


@pytest.mark.parametrize("command", [["trace", "val.loss"], ["verify"]])
def test_elsewhere_than_at_the_top_it_is_one_line(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    line = "error: dvc.yaml: not found; run from the project's top folder\n"
    assert capsys.readouterr() == ("", line)


def test_a_name_reaches_no_file_outside_of_the_results(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    shutil.copy("reports/figures/loss.png", "reports/mine.png")
    with pytest.raises(ReportError, match="found nowhere"):
        find_value(WorkingTree(), "../mine")
    assert find_value(WorkingTree(), "provenance") == ("reports/provenance.json",) * 2


def test_text_in_a_bucket_is_named_by_the_hash_that_it_had(finished: Path) -> None:
    lock = finished / "dvc.lock"
    text = re.sub(
        r"- path: data/own\n(\s+)hash: md5\n\s+md5: \S+",
        r"- path: s3://bucket/words.txt\n\1etag: abc123",
        lock.read_text(),
        count=1,
    )
    assert "s3://" in text
    lock.write_text(text)
    found = lines(trace(finished, "val.loss"))
    assert "s3://bucket/words.txt etag abc123" in found


def test_names_that_git_quotes_are_hashed_as_dvc_does(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "data/own/sub").mkdir()
    (finished / "data/own/sub/with space & ünï.txt").write_text("text")
    commit(finished)
    monkeypatch.chdir(finished)
    here = WorkingTree().md5("data/own")
    assert here is not None
    assert Revision("HEAD").md5("data/own") == here


def test_weights_that_git_ignores_are_a_part_of_the_folder_as_they_are_here(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    weights = finished / "data/init/best.pt"
    weights.write_bytes(b"weights")
    commit(finished)
    then = WorkingTree().md5("data/init")
    assert then is not None
    assert Revision("HEAD").md5("data/init") != then  # git has its README.md alone
    assert check_path(Revision("HEAD"), "data/init", then) == ""
    weights.write_bytes(b"others")
    held = Revision("HEAD").md5("data/init")
    problem = f"md5 is {held}, dvc.lock has {then}"
    assert check_path(Revision("HEAD"), "data/init", then) == problem


def test_what_dvc_add_keeps_is_part_of_a_commits_folder(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("added.txt", "added/deeper/a.txt"):
        (finished / "data/own" / name).parent.mkdir(parents=True, exist_ok=True)
        (finished / "data/own" / name).write_text(name)
    run(finished, "dvc", "add", "-q", "data/own/added.txt", "data/own/added")
    commit(finished)
    monkeypatch.chdir(finished)
    here = WorkingTree().md5("data/own")
    assert here is not None
    assert Revision("HEAD").md5("data/own") == here


def test_a_commits_data_is_looked_for_here_alone(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(finished, "dvc", "remote", "add", "-q", "-d", "far", "s3://bucket/far")
    commit(finished)
    monkeypatch.chdir(finished)
    here = WorkingTree().md5("data/checkpoints")
    assert Revision("HEAD").md5("data/checkpoints") == here
    shutil.rmtree(".dvc/cache/files/md5")
    assert Revision("HEAD").md5("data/checkpoints") is None
    assert Revision("HEAD").read("data/checkpoints/run.json") is None
    found = lines(trace(finished, "val.loss", "--rev", "HEAD", check=False))
    assert any(re.match("data/checkpoints md5 .* missing or damaged", line) for line in found)


def test_a_commit_of_a_repository_that_has_the_project_in_a_folder(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(finished / ".git")
    run(finished.parent, "git", "init", "-q")
    commit(finished)
    monkeypatch.chdir(finished)
    tree = Revision("HEAD")
    for path in ("params.yaml", "data/own", "data/checkpoints"):
        assert tree.md5(path) == WorkingTree().md5(path), path
    assert tree.read("data/checkpoints/run.json") == Path("data/checkpoints/run.json").read_bytes()


def test_a_name_that_several_experiments_have_is_refused_with_their_commits(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    heads = [run(finished, "git", "rev-parse", "HEAD").stdout.strip()]
    run(finished, "git", "update-ref", "refs/exps/aa/aa/same", heads[0])
    assert resolve("same") == heads[0]
    commit(finished, "Another")
    heads.append(run(finished, "git", "rev-parse", "HEAD").stdout.strip())
    run(finished, "git", "update-ref", "refs/exps/bb/bb/same", heads[1])
    with pytest.raises(ReportError) as caught:
        resolve("same")
    listed = ", ".join(head[:10] for head in heads)
    assert str(caught.value) == f"--rev: found 2 experiments same; allowed: {listed}"
