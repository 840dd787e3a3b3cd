"""Proves that no stage of dvc.yaml can go stale unseen: its deps are the code that it imports.

The imports are read from the syntax tree, lazy ones inside functions too, and followed from
pipeline/<stage>.py to the last local module. pipeline/__init__.py and pipeline/__main__.py stand
outside: they only hand on to what is asked for, which is proved here as well.
"""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.paths import BROUGHT
from pipeline.reporting.stages import CODE

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
HANDS_ON = {"pipeline/__init__.py", "pipeline/__main__.py"}
DYNAMIC = {"import_module", "__import__", "exec", "eval"}


def imported(module: str, root: Path = ROOT) -> set[str]:
    """Every local file that running `module` (a path under root) may import, itself included."""
    found: set[str] = set()
    todo = [module]
    while todo:
        path = todo.pop()
        if path in found or path in HANDS_ON:
            continue
        found.add(path)
        todo += direct_imports(path, root)
    return found


def direct_imports(path: str, root: Path) -> list[str]:
    names: list[str] = []
    for node in executed((root / path).read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(Path(path).parts[: len(Path(path).parts) - node.level])
            base = ".".join(part for part in (package if node.level else "", node.module) if part)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [file for name in names for file in local_files(name, root)]


def executed(source: str) -> list[ast.AST]:
    """The nodes of a module without what stands under `if TYPE_CHECKING`."""
    nodes: list[ast.AST] = []
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        nodes.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)
    return nodes


def local_files(name: str, root: Path) -> list[str]:
    """The files that importing a dotted name runs: the module, and packages that hold code."""
    parts = name.split(".")
    packages = [Path(*parts[: n + 1], "__init__.py") for n in range(len(parts))]
    files = [path for path in packages if (root / path).is_file() and (root / path).stat().st_size]
    module = Path(*parts).with_suffix(".py")
    if (root / module).is_file():
        files.append(module)
    return [file.as_posix() for file in files]


def code_deps(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["deps"] if dep.endswith(CODE)}


def needed_code(stage: str) -> set[str]:
    """What a stage imports; report also reads a template, and for provenance.json all code."""
    needed = imported(f"pipeline/{stage}.py")
    if stage == "report":
        needed |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("pipeline/**/*.j2")}
        needed |= {dep for other in STAGES if other != stage for dep in code_deps(other)}
    return needed


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_code_that_the_stage_runs(stage: str) -> None:
    assert code_deps(stage) == needed_code(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_no_dep_is_listed_twice(stage: str) -> None:
    assert len(STAGES[stage]["deps"]) == len(set(STAGES[stage]["deps"]))


def test_data_deps_are_what_earlier_stages_make() -> None:
    made = {"${corpus.path}", *BROUGHT, "reports/sweeps"}  # what people bring
    for stage in STAGES.values():
        for dep in stage["deps"]:
            owners = {dep, *(parent.as_posix() for parent in Path(dep).parents)}
            assert dep.endswith(CODE) or owners & made, f"no earlier stage makes {dep}"
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, ()):
                made.add(out if isinstance(out, str) else next(iter(out)))


def test_report_lists_every_section_that_a_stage_lists() -> None:
    """provenance.json holds their hashes, so each must make report due."""
    keys = {key for stage in STAGES.values() for key in stage["params"]}
    sections = {key.split(".")[0] for key in keys}
    assert set(STAGES["report"]["params"]) == sections
    assert "log" not in sections, "what cannot change a result must re-run nothing"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_import_nothing_by_a_computed_name(stage: str) -> None:
    for path in imported(f"pipeline/{stage}.py"):
        for node in executed((ROOT / path).read_text(encoding="utf-8")):
            called = node.func if isinstance(node, ast.Call) else None
            name = getattr(called, "attr", getattr(called, "id", ""))
            is_function = isinstance(called, ast.Name) or name == "import_module"
            assert not (is_function and name in DYNAMIC), f"{path}:{node.lineno} calls {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_take_nothing_from_the_top_package(stage: str) -> None:
    """`from pipeline import GPT` would run a module that no dep names."""
    for path in imported(f"pipeline/{stage}.py"):
        for node in executed((ROOT / path).read_text(encoding="utf-8")):
            if isinstance(node, ast.ImportFrom) and node.module == "pipeline" and not node.level:
                for alias in node.names:
                    assert local_files(f"pipeline.{alias.name}", ROOT)[1:], f"{path}: {alias.name}"


def test_a_folder_imports_only_from_those_before_it() -> None:
    flow = ("corpus", "model", "training", "evaluation", "reporting")
    later = set()
    for number, folder in enumerate(flow):
        for path in sorted((ROOT / "pipeline" / folder).glob("*.py")):
            module = path.relative_to(ROOT).as_posix()
            taken = {Path(file).parts[1] for file in direct_imports(module, ROOT)}
            outside = {part for part in taken if (ROOT / "pipeline" / part).is_dir()}
            later |= {(module, other) for other in outside - set(flow[: number + 1])}
    assert later == {("pipeline/training/run.py", "evaluation")}  # the body of the command train


def test_main_imports_nothing_local_but_errors() -> None:
    local = set(direct_imports("pipeline/__main__.py", ROOT)) - HANDS_ON
    assert local == {"pipeline/errors.py"}


def test_the_top_package_imports_nothing_when_it_is_imported() -> None:
    tree = ast.parse((ROOT / "pipeline/__init__.py").read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in at_once] == ["from typing import TYPE_CHECKING, Any"]


def test_every_form_of_import_is_followed(tmp_path: Path) -> None:
    files = {
        "pipeline/__init__.py": "VERSION = 1",
        "pipeline/stage.py": (
            "import os, pipeline.plain\n"
            "from pipeline import errors\n"
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from pipeline.types import T\n"
            "def run():\n    from pipeline.lazy.inner import f\n"
        ),
        "pipeline/plain.py": "from .near import x",
        "pipeline/near.py": "",
        "pipeline/errors.py": "",
        "pipeline/types.py": "",
        "pipeline/unused.py": "",
        "pipeline/lazy/__init__.py": "from . import first",
        "pipeline/lazy/first.py": "from ..far import y",
        "pipeline/lazy/inner.py": "",
        "pipeline/far.py": "import pipeline.empty.leaf as leaf",
        "pipeline/empty/__init__.py": "",
        "pipeline/empty/leaf.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    unseen = {"__init__.py", "types.py", "unused.py", "empty/__init__.py"}
    expected = set(files) - {f"pipeline/{name}" for name in unseen}
    assert imported("pipeline/stage.py", tmp_path) == expected
