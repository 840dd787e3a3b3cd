"""Proves that a sweep is checked as a whole before it starts, and named by what its runs set."""

from pathlib import Path

import pytest
from fresh_project import enter_project
from tiny_project import commit, run

from pipeline.errors import UserError
from pipeline.sweep import _planned
from pipeline.sweeps.plan import FILES, load_plan, plan_from_file, plan_from_flags

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_project(tmp_path, monkeypatch)


def write_sweep(text: str) -> Path:
    FILES.mkdir(exist_ok=True)
    path = FILES / "mine.yaml"
    path.write_text(text)
    return path


def test_flags_are_a_grid_and_single_values_hold_for_every_run() -> None:
    plan = plan_from_flags(
        "try", ["train.lr=1e-3,5e-05", "train.seed=1,2", "train.max_steps=7"], threads=3
    )
    assert [member.name for member in plan.members] == [
        "try-lr=0.001-seed=1",
        "try-lr=0.001-seed=2",
        "try-lr=5e-05-seed=1",
        "try-lr=5e-05-seed=2",
    ]
    assert plan.varied == ["train.lr", "train.seed"]
    assert plan.members[2].settings == {
        "train.threads": 3,
        "train.max_steps": 7,
        "train.lr": 5e-05,
        "train.seed": 1,
    }


def test_runs_of_a_file_are_crossed_with_its_grid_and_each_says_all_that_varies() -> None:
    write_sweep(
        "description: Which?\n"
        "base: {train.max_steps: 7, train.threads: 2}\n"
        "runs: [{model.architecture: gpt2, model.bias: true}, {model.architecture: modern}]\n"
        "grid: {train.seed: [1, 2]}\n"
    )
    plan = plan_from_file("mine", threads=1)
    assert plan.description == "Which?"
    assert plan.varied == ["model.architecture", "model.bias", "train.seed"]
    assert [member.name for member in plan.members] == [
        "mine-architecture=gpt2-bias=true-seed=1",
        "mine-architecture=gpt2-bias=true-seed=2",
        "mine-architecture=modern-seed=1",
        "mine-architecture=modern-seed=2",
    ]
    assert [member.settings["model.bias"] for member in plan.members] == [True, True, False, False]
    assert {member.settings["train.threads"] for member in plan.members} == {2}


def test_a_grid_that_grows_keeps_the_names_of_what_is_done() -> None:
    small = plan_from_flags("lr", ["train.lr=1e-3,1e-4"], threads=1)
    large = plan_from_flags("lr", ["train.lr=1e-2,1e-3,1e-4"], threads=1)
    assert [m.name for m in large.members[1:]] == [m.name for m in small.members]


def test_a_name_is_one_for_git_whatever_the_value_is() -> None:
    prompts = r"'[a b..c~^:?*\]', '@{x', " + "y" * 200
    plan = plan_from_flags("s", [f"sample.prompt={prompts}", "sample.top_k=1,2"], threads=1)
    names = [member.name for member in plan.members]
    assert len(set(names)) == 6
    assert all(len(name) <= 100 and not set(name) & set(" ~^:?*[\\@{") for name in names)
    assert all(".." not in name for name in names)


def test_the_plan_is_found_again_as_it_was() -> None:
    plan = plan_from_flags("lr", ["train.lr=1e-3,5e-05"], threads=1)
    plan.baseline, plan.spent = "c" * 40, {"lr-lr=0.001": 1.5}
    plan.save()
    assert load_plan("lr") == plan
    assert load_plan("other") is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["train.lr= "], "-S train.lr= : found no value; allowed: key=a,b"),
        (["train.seed=1,2", "train.seed=3,4"], "-S train.seed: found twice; allowed: once"),
        (["train.lrr=1,2"], "train.lrr: unknown parameter; did you mean lr?"),
        (["trian.lr=1,2"], "trian.lr: found no such section; allowed: corpus, prepare, model"),
        (["train.lr=1e-3,-1"], "-S: s-lr=-1: train.lr: found -1; allowed:"),
        (["train.lr=1e-3,abc"], "-S: s-lr=abc: train.lr: found 'abc'"),
        (["model.n_head=3,5"], "s-n_head=5: model.n_head: found 5; allowed: a divisor of n_embd"),
        (["train.lr"], "-S train.lr: found no value; allowed: key=a,b"),
        (["train.lr=1e-3"], "-S: found one value for every key"),
        (["train.lr=[1,2"], "-S train.lr=[1,2: not valid YAML"),
        (["train.sample_prompt=2024-13-45"], "-S train.sample_prompt=2024-13-45: not valid YAML"),
    ],
)
def test_a_wrong_flag_is_one_line_before_anything_runs(flags: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_from_flags("s", flags, threads=1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gird: {train.lr: [1e-3]}", "found gird; allowed: description, base, runs, grid"),
        ("- 1", "found [1]; allowed: description"),
        ("grid: {train.lr: 1e-3}", "grid: train.lr: found 0.001; allowed: a list of values"),
        ("grid: {train.lr: []}", "grid: train.lr: found []; allowed: a list of values"),
        ("runs: {train.lr: 1e-3}", "runs: found {'train.lr': 0.001}; allowed: a list"),
        ("runs: [3]", "runs: found 3; allowed: settings"),
        ("base: {train.lr: 0}\ngrid: {train.seed: [1, 2]}", "mine-seed=1: train.lr: found 0"),
        ("grid: {train.seed: [1, 1]}", "found twice; allowed: every run once"),
        ("grid: [1]", "grid: found [1]; allowed: settings, as {train.max_steps: 400}"),
        ("grid: [", "not valid YAML: line 1: "),
        ("base: {}\nbase: {}", 'not valid YAML: line 2: found duplicate key "base"'),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(text: str, message: str) -> None:
    path = write_sweep(text)
    with pytest.raises(UserError) as caught:
        plan_from_file("mine", threads=1)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_those_that_are_there() -> None:
    write_sweep("grid: {train.seed: [1, 2]}")
    with pytest.raises(UserError, match=r"sweeps/yours\.yaml: not found; .* \(mine\)"):
        plan_from_file("yours", threads=1)


@pytest.mark.parametrize("path", sorted((ROOT / FILES).glob("*.yaml")), ids=lambda path: path.stem)
def test_every_ready_sweep_is_valid(path: Path) -> None:
    FILES.mkdir()
    (FILES / path.name).write_bytes(path.read_bytes())
    plan = plan_from_file(path.stem, threads=1)
    assert plan.description
    assert len(plan.members) >= 3


def test_the_processes_of_a_run_share_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_from_flags("try", ["train.lr=1e-3,1e-2", "train.nproc=2"], threads=8)
    assert {member.settings["train.threads"] for member in plan.members} == {4}
    plan = plan_from_flags("try", ["train.nproc=1,4", "train.threads=3"], threads=8)
    assert {member.settings["train.threads"] for member in plan.members} == {3}
    run(Path(), "git", "init", "-q")
    commit(Path())
    monkeypatch.setattr("pipeline.sweep.available_cores", lambda: 8)
    plan, workers = _planned(None, ["train.lr=1e-3,1e-2", "train.nproc=2"], 2)
    assert ({member.settings["train.threads"] for member in plan.members}, workers) == ({2}, 2)
    grid = ["train.lr=1e-3,1e-2", "train.nproc=2", "train.threads=4"]
    assert _planned("whole", grid, 2)[1] == 1  # each run takes every core


def test_a_key_that_is_a_number_is_one_line() -> None:
    write_sweep("grid: {1: [1, 2]}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: found 1; allowed: a setting's name"):
        plan_from_file("mine", threads=1)


def test_a_grid_by_flags_does_not_take_a_files_name() -> None:
    settings = ["train.lr=1e-3,5e-4"]
    run(Path(), "git", "init", "-q")
    commit(Path())
    assert _planned(None, settings, 1)[0].name == "lr"
    FILES.mkdir(exist_ok=True)
    (FILES / "lr.yaml").write_text("grid: {train.lr: [1e-3]}\n")
    assert _planned(None, settings, 1)[0].name == "lr-grid"
