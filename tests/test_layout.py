"""The rules of CONTRIBUTING.md about who imports whom, and who prints, hold for every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOW = ("corpus", "model", "training", "evaluation", "reporting")
OUTSIDE = ("sweeps", "benchmarking")  # they run all of it
SHARED = ("console", "dvc_lock", "errors", "params", "paths", "processes", "randomness", "storage")
SPEAK = {
    "training/run.py", "training/progress.py",
    "sweeps/progress.py", "benchmarking/limits.py", "benchmarking/ours.py",
    "benchmarking/peer.py",
}  # fmt: skip
MODULES = [path for path in sorted(ROOT.glob("pipeline/*/*.py")) if path.name != "__init__.py"]


def imported(tree: ast.Module) -> set[str]:
    """The names of the project's modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return {name for name in found if name.startswith("pipeline.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_takes_from_its_own_folder_or_one_before_it(path: Path) -> None:
    folder = path.parent.name
    allowed = {*FLOW, folder} if folder in OUTSIDE else {*FLOW[: FLOW.index(folder) + 1]}
    if f"{folder}/{path.name}" == "training/run.py":
        allowed.add("evaluation")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {name.split(".")[1] for name in imported(tree)}
    assert parts - allowed - {*SHARED} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_none_but_commands_and_what_speaks_for_them_prints_reads_arguments_or_exits(
    path: Path,
) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = names & {"print", "input", "exit", "Console", "uncut_console"}
    found |= attributes & {"sys.argv", "sys.exit", "typer.Exit", "typer.echo"}
    assert bool(found) == (f"{path.parent.name}/{path.name}" in SPEAK), found
