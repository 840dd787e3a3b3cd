"""From a number back to the text it came from, each step checked.

dvc.lock records, for every stage, the hashes of what it read and wrote and the parameters it ran
with. A lineage follows it from a result up to the corpus, and compares each record with what is
there.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.corpus.remote_files import is_remote
from pipeline.dvc_lock import producer_of, upstream
from pipeline.errors import ReportError
from pipeline.paths import (
    EVALUATION_RUN,
    FIGURES,
    HISTORY,
    MANIFEST,
    META,
    METRICS,
    PROVENANCE,
    REPORT_PAGE,
    RESULTS_PAGE,
    RUN,
    SAMPLES,
)
from pipeline.reporting.revisions import (
    Revision,
    Tree,
    git,
    md5,
    read_lock,
    value_at,
)
from pipeline.reporting.stages import CODE
from pipeline.storage import parse_json, parse_yaml

RUNS = {"train": RUN, "evaluate": EVALUATION_RUN}  # stage -> where it says what it ran on


@dataclass
class Node:
    """One line of a lineage: what it is, and what is wrong with it."""

    text: str
    problem: str = ""
    children: list["Node"] = field(default_factory=list)

    def problems(self) -> list[str]:
        """All that is wrong from here on."""
        own = [f"{self.text}: {self.problem}"] if self.problem else []
        return own + [problem for child in self.children for problem in child.problems()]

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {"text": self.text, "ok": not self.problem}
        if self.problem:
            values["problem"] = self.problem
        if self.children:
            values["children"] = [child.to_dict() for child in self.children]
        return values


def check_path(tree: Tree, path: str, locked: str) -> str:
    """What is wrong with a file or folder that dvc.lock records, or ''."""
    actual = tree.md5(path)
    if actual is None:
        return f"missing or damaged, dvc.lock has md5 {locked}"
    if actual != locked:
        # as with weights, which git ignores
        if isinstance(tree, Revision) and tree.md5(path, beside=True) == locked:
            return ""
        return f"md5 is {actual}, dvc.lock has {locked}"
    return ""


def check_dep(tree: Tree, dep: dict[str, Any]) -> str:
    """`check_path` of what a stage read; text on another machine is not read again."""
    return "" if is_remote(dep["path"]) else check_path(tree, dep["path"], dep["md5"])


def _settings(data: bytes, file: str) -> dict[str, Any]:
    return parse_yaml(data, file, ReportError, "allowed: settings")


def check_params(tree: Tree, file: str, locked: dict[str, Any]) -> dict[str, str]:
    """{key: what is wrong} for each parameter of a stage that is not as recorded."""
    data = tree.read(file)
    values = _settings(data, file) if data is not None else {}
    pairs: dict[str, tuple[Any, Any]] = {}
    for key, recorded in locked.items():
        current = value_at(values, key)
        if isinstance(current, dict) and isinstance(recorded, dict):
            names = sorted({*current, *recorded})
            pairs |= {f"{key}.{name}": (current.get(name), recorded.get(name)) for name in names}
        else:
            pairs[key] = current, recorded
    return {
        key: f"is {current!r}, dvc.lock has {recorded!r}"
        for key, (current, recorded) in pairs.items()
        if current != recorded
    }


def stage_node(tree: Tree, lock: dict[str, Any], stage: str, seen: set[str]) -> Node:
    """A stage: its command, parameters, code and inputs, followed up to the corpus."""
    entry = lock[stage]
    node = Node(f"stage {stage}: {entry['cmd']}")
    if stage in seen:
        node.text += " (as above)"
        return node
    seen.add(stage)
    for file, locked in entry.get("params", {}).items():
        problems = check_params(tree, file, locked)
        for key, value in locked.items():
            shown = json.dumps(value, ensure_ascii=False, default=str)
            wrong = "; ".join(
                f"{k} {v}" for k, v in problems.items() if f"{k}.".startswith(f"{key}.")
            )
            node.children.append(Node(f"{file} {key}: {shown}", wrong))
    code = Node("code")
    inputs = []
    for dep in entry.get("deps", []):
        path = dep["path"]
        kind = next(kind for kind in ("md5", "etag", "checksum") if kind in dep)
        line = Node(f"{path} {kind} {dep[kind]}", check_dep(tree, dep))
        if path.endswith(CODE):
            code.children.append(line)
            continue
        if producer := producer_of(lock, path):
            line.children.append(stage_node(tree, lock, producer, seen))
        inputs.append(line)
    node.children.append(code)
    node.children += inputs
    if stage in RUNS:
        node.children.append(_platform(tree, RUNS[stage]))
    if stage == "fetch":
        node.children.append(_corpus(tree))
    return node


def _object(data: bytes, path: Path) -> dict[str, Any]:
    """The object in a result's bytes; raises ReportError where there is none."""
    values: dict[str, Any] = parse_json(data, path, ReportError, "run `dvc repro`")
    return values


def _platform(tree: Tree, run: Path) -> Node:
    data = tree.read(run.as_posix())
    if data is None:
        return Node("platform", f"{run} is missing")
    try:
        facts = _object(data, run).get("runtime", {})
    except ReportError as error:
        return Node("platform", str(error))
    return Node("platform", children=[Node(f"{name}: {value}") for name, value in facts.items()])


def _corpus(tree: Tree) -> Node:
    raw, meta = tree.read(MANIFEST.as_posix()), tree.read(META.as_posix())
    if raw is None or meta is None:
        return Node("corpus", f"{MANIFEST} or {META} is missing")
    try:
        manifest = _object(raw, MANIFEST)
        recorded = value_at(_object(meta, META), "corpus.sha256")
    except ReportError as error:
        return Node("corpus", str(error))
    problem = "" if manifest.get("sha256") == recorded else f"{META} has {recorded}"
    return Node(
        f"corpus {manifest.get('name')} from {manifest.get('source')}, "
        f"{len(manifest.get('files', []))} files, sha256 {manifest.get('sha256')}",
        problem,
    )


def find_value(tree: Tree, name: str) -> tuple[str, str]:
    """(what a name says, the file that holds it) for a metric, figure, table or sample."""
    metrics = METRICS.as_posix()
    data = tree.read(metrics)
    values = _object(data, METRICS) if data is not None else {}
    value = value_at(values, name)
    if value is not None:
        return f"{name} = {json.dumps(value)}", metrics
    lock = read_lock(tree)
    wanted = name.removeprefix("reports/").removeprefix("figures/").removesuffix(".png")
    for result in (FIGURES, HISTORY, SAMPLES, RESULTS_PAGE, REPORT_PAGE, METRICS, PROVENANCE):
        path = result.as_posix()
        if producer_of(lock, path) is None:
            continue
        if result == FIGURES:
            file = f"{path}/{wanted}.png"
            if "/" not in wanted and tree.read(file) is not None:
                return f"figure {file}", path
        elif wanted in (result.name, result.stem):
            return path, path
    raise ReportError(
        f"{name}: found nowhere in the results that dvc.lock knows; allowed: "
        f"{''.join(f'{each}, ' for each in sorted(_leaves(values)))}a figure's name, "
        "train.csv, samples, results, report, metrics, provenance"
    )


def _leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        names += _leaves(value, f"{name}.") if isinstance(value, dict) else [name]
    return names


def lineage(tree: Tree, name: str) -> Node:
    """The whole tree of a result."""
    lock = read_lock(tree)
    said, path = find_value(tree, name)
    root = Node(said)
    for stage, entry in lock.items():
        for out in entry.get("outs", []):
            if out["path"] == path:
                problem = check_path(tree, path, out["md5"])
                file = Node(f"{path} md5 {out['md5']}", problem)
                file.children.append(stage_node(tree, lock, stage, set()))
                root.children.append(file)
    if not root.children:
        root.problem = f"dvc.lock does not know {path}; run `dvc repro`"
    root.children.append(commits_node(tree, upstream(lock, path)))
    return root


def commits_node(tree: Tree, stages: list[str]) -> Node:
    """The commits that hold exactly the code and parameters of these stages."""
    lock = read_lock(tree)
    params = {
        key: value
        for s in stages
        for f in lock[s].get("params", {}).values()
        for key, value in f.items()
    }
    deps = [dep for s in stages for dep in lock[s].get("deps", [])]
    wanted = {dep["path"]: dep["md5"] for dep in deps if dep["path"].endswith(CODE)}
    code = sorted(wanted)
    blobs: dict[str, str] = {}  # git's blob id -> md5 of its content
    params_agree: dict[str, bool] = {}
    start = tree.commit if isinstance(tree, Revision) else "HEAD"
    commits = git("rev-list", start, check=False).decode().split()
    found: list[str] = []
    differs: list[str] = []
    for commit in commits:
        listing = git("ls-tree", "-r", "-z", commit, "--", *code, "params.yaml").decode()
        entries = [line.split("\t") for line in listing.split("\0") if line]
        ids = {path: facts.split()[2] for facts, path in entries}
        wrong = []
        for path in code:
            blob = ids.get(path, "")
            if blob and blob not in blobs:
                blobs[blob] = md5(git("cat-file", "blob", blob))
            if blobs.get(blob) != wanted[path]:
                wrong.append(path)
        blob = ids.get("params.yaml", "")
        if blob not in params_agree:
            params_agree[blob] = bool(blob) and _holds(git("cat-file", "blob", blob), params)
        if not params_agree[blob]:
            wrong.append("params.yaml")
        if not wrong:
            found.append(commit)
        elif commit == commits[0]:
            differs = wrong
    if not found:
        what = ", ".join(differs) if differs else "there is no commit"
        return Node("commits with this code and these parameters: none", f"uncommitted: {what}")
    newest = git("log", "-1", "--format=%h %s", found[0]).decode().strip()
    more = len(found) - 5
    return Node(
        f"commits with this code and these parameters: {len(found)}, newest {newest}",
        children=[*map(Node, found[:5]), *([Node(f"{more} more")] if more > 0 else [])],
    )


def _holds(data: bytes, params: dict[str, Any]) -> bool:
    """Whether a params.yaml has these values; one that cannot be read has not."""
    try:
        values = _settings(data, "params.yaml")
    except ReportError:
        return False
    return all(value_at(values, key) == recorded for key, recorded in params.items())
