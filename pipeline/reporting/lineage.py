"""From a number back to the text it came from, each step checked.

dvc.lock records, for every stage, the hashes of what it read and wrote and the parameters it ran
with. A lineage follows it from a result up to the corpus, and compares each record with what is
there: in the working tree, or in a commit and DVC's cache.
"""

import hashlib
import json
import subprocess
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from pipeline.corpus.remote_files import is_remote
from pipeline.dvc_cache import DvcCache
from pipeline.errors import ReportError
from pipeline.paths import (
    FIGURES,
    HISTORY,
    MANIFEST,
    META,
    METRICS,
    REPORT_PAGE,
    RESULTS_PAGE,
    RUN,
    SAMPLES,
)
from pipeline.reporting.stages import CODE


def parse_yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(StringIO(text))


def md5(data: bytes) -> str:
    """The hash by which DVC names a file's content."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def folder_md5(files: dict[str, str]) -> str:
    """The hash by which DVC names a folder, from {relative path: md5}."""
    entries = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return md5(json.dumps(entries, sort_keys=True).encode()) + ".dir"


def git(*arguments: str, check: bool = True) -> bytes:
    """What a git command prints; raises ReportError where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True)
    if check and done.returncode:
        message = done.stderr.decode(errors="replace").strip().splitlines()
        raise ReportError(f"git {arguments[0]}: {message[0] if message else 'failed'}")
    return done.stdout if done.returncode == 0 else b""


class WorkingTree:
    """The project as it is on disk."""

    name = "working tree"

    def read(self, path: str) -> bytes | None:
        file = Path(path)
        return file.read_bytes() if file.is_file() else None

    def md5(self, path: str, locked: str) -> str | None:
        """The DVC hash of a file or folder as it is now, None where it is missing."""
        target = Path(path)
        if target.is_dir():
            files = [file for file in target.rglob("*") if file.is_file()]
            named = {file.relative_to(target).as_posix(): file for file in files}
            return folder_md5(
                {name: _file_md5(file) for name, file in named.items() if "__pycache__" not in name}
            )
        return _file_md5(target) if target.is_file() else None

    read_output = read


class Revision:
    """The project as a commit holds it, its cached data in DVC's cache."""

    def __init__(self, name: str) -> None:
        self.name, self.cache = name, DvcCache()
        self.commit = resolve(name)
        self._outputs = {out["path"]: out["md5"] for out in _locked_outputs(self)}

    def read(self, path: str) -> bytes | None:
        done = subprocess.run(
            ["git", "cat-file", "blob", f"{self.commit}:./{path}"], capture_output=True
        )
        return done.stdout if done.returncode == 0 else None

    def md5(self, path: str, locked: str) -> str | None:
        """Of what git holds, its hash; of cached data, the hash if the cache holds it whole."""
        data = self.read(path)
        if data is None:
            data = self.cache.read(locked)
        if data is None:
            listing = git(
                "ls-tree", "-r", "-z", "--name-only", self.commit, "--", path, check=False
            )
            names = [name for name in listing.decode().split("\0") if name not in ("", path)]
            files = {
                str(PurePosixPath(n).relative_to(path)): md5(self.read(n) or b"") for n in names
            }
            # a text of the user's own that neither git nor DVC holds: as it is on disk
            return folder_md5(files) if files else WorkingTree().md5(path, locked)
        if locked.endswith(".dir") and md5(data) + ".dir" == locked:
            for name in self.cache.listing(locked).values():
                held = self.cache.read(name)
                if held is None or md5(held) != name:
                    return None
            return locked
        return md5(data)

    def read_output(self, path: str) -> bytes | None:
        """A file inside a cached output."""
        for out, name in self._outputs.items():
            if path.startswith(f"{out}/") and name.endswith(".dir"):
                inner = self.cache.listing(name).get(path.removeprefix(f"{out}/"))
                return self.cache.read(inner) if inner else None
        return self.read(path)


Tree = WorkingTree | Revision


def resolve(name: str) -> str:
    """The commit of a git revision or of a DVC experiment's name."""
    found = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False)
    if found:
        return found.decode().strip()
    references = git("for-each-ref", "--format=%(refname)", "refs/exps").decode().splitlines()
    of_name = [reference for reference in references if reference.rsplit("/", 1)[-1] == name]
    commits = [git("rev-parse", reference).decode().strip() for reference in of_name]
    if len(commits) == 1:
        return commits[0]
    if commits:
        several = ", ".join(commit[:10] for commit in commits)
        raise ReportError(f"--rev: found {len(commits)} experiments {name}; allowed: {several}")
    raise ReportError(f"--rev: found {name!r}; allowed: a git revision or an experiment's name")


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_lock(tree: Tree) -> dict[str, Any]:
    """The stages of dvc.lock."""
    data = tree.read("dvc.lock")
    if data is None:
        raise ReportError(f"dvc.lock: not found in {tree.name}; run `dvc repro`")
    return dict(parse_yaml(data.decode())["stages"])


def _locked_outputs(tree: Tree) -> list[dict[str, Any]]:
    return [out for stage in read_lock(tree).values() for out in stage.get("outs", [])]


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
    actual = tree.md5(path, locked)
    if actual is None:
        return f"missing or damaged, dvc.lock has md5 {locked}"
    if actual != locked:
        return f"md5 is {actual}, dvc.lock has {locked}"
    return ""


def check_dep(tree: Tree, dep: dict[str, Any]) -> str:
    """`check_path` of what a stage read; text on another machine is not read again."""
    return "" if is_remote(dep["path"]) else check_path(tree, dep["path"], dep["md5"])


def value_at(values: Any, key: str) -> Any:
    """The value under a dotted key of nested dicts, None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def check_params(tree: Tree, file: str, locked: dict[str, Any]) -> dict[str, str]:
    """{key: what is wrong} for each parameter of a stage that is not as recorded."""
    data = tree.read(file)
    values = parse_yaml(data.decode()) if data is not None else {}
    problems = {}
    for key, recorded in locked.items():
        current = value_at(values, key)
        if current == recorded:
            continue
        if isinstance(current, dict) and isinstance(recorded, dict):
            names = sorted({*current, *recorded})
            for name in names:
                if current.get(name) != recorded.get(name):
                    problems[f"{key}.{name}"] = (
                        f"is {current.get(name)!r}, dvc.lock has {recorded.get(name)!r}"
                    )
        else:
            problems[key] = f"is {current!r}, dvc.lock has {recorded!r}"
    return problems


def producer_of(lock: dict[str, Any], path: str) -> str | None:
    """The stage that makes a file or folder, alone or inside a folder; None where none does."""
    for stage, entry in lock.items():
        if any(f"{path}/".startswith(f"{out['path']}/") for out in entry.get("outs", [])):
            return stage
    return None


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
    if stage == "train":
        node.children.append(_platform(tree))
    if stage == "fetch":
        node.children.append(_corpus(tree))
    return node


def _platform(tree: Tree) -> Node:
    data = tree.read_output(RUN.as_posix())
    if data is None:
        return Node("platform", f"{RUN} is missing")
    facts = json.loads(data)["runtime"]
    return Node("platform", children=[Node(f"{name}: {value}") for name, value in facts.items()])


def _corpus(tree: Tree) -> Node:
    raw, meta = tree.read_output(MANIFEST.as_posix()), tree.read_output(META.as_posix())
    if raw is None or meta is None:
        return Node("corpus", f"{MANIFEST} or {META} is missing")
    manifest, recorded = json.loads(raw), json.loads(meta)["corpus"]["sha256"]
    problem = "" if manifest["sha256"] == recorded else f"{META} has {recorded}"
    return Node(
        f"corpus {manifest['name']} from {manifest['source']}, {len(manifest['files'])} files, "
        f"sha256 {manifest['sha256']}",
        problem,
    )


def find_value(tree: Tree, name: str) -> tuple[str, str]:
    """(what a name says, the file that holds it) for a metric, figure, table or sample."""
    metrics = METRICS.as_posix()
    data = tree.read(metrics)
    try:
        values = value_at(json.loads(data) if data is not None else {}, name)
    except ValueError:
        raise ReportError(f"{METRICS}: not JSON; run `dvc repro`") from None
    if values is not None:
        return f"{name} = {json.dumps(values)}", metrics
    outputs = [out["path"] for out in _locked_outputs(tree)]
    wanted = name.removeprefix("reports/").removeprefix("figures/").removesuffix(".png")
    for result in (FIGURES, HISTORY, SAMPLES, RESULTS_PAGE, REPORT_PAGE):
        path = result.as_posix()
        if path not in outputs:
            continue
        if result == FIGURES:
            file = f"{path}/{wanted}.png"
            if tree.read(file) is not None:
                return f"figure {file}", path
        elif wanted in (result.name, result.stem):
            return path, path
    known = sorted(_leaves(json.loads(data))) if data is not None else []
    raise ReportError(
        f"{name}: found nowhere in the results; allowed: {', '.join(known)}, "
        "a figure's name, train.csv, samples, results, report"
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


def upstream(lock: dict[str, Any], path: str) -> list[str]:
    """The stages behind an output, itself included, in the order of the lock."""
    wanted: set[str] = set()
    paths = [path]
    while paths:
        target = paths.pop()
        stage = producer_of(lock, target)
        if stage and stage not in wanted:
            wanted.add(stage)
            paths += [dep["path"] for dep in lock[stage].get("deps", [])]
    return [stage for stage in lock if stage in wanted]


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
            text = git("cat-file", "blob", blob).decode() if blob else ""
            params_agree[blob] = bool(blob) and _holds(parse_yaml(text), params)
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
    return Node(
        f"commits with this code and these parameters: {len(found)}, newest {newest}",
        children=[Node(commit) for commit in found[:5]],
    )


def _holds(values: Any, params: dict[str, Any]) -> bool:
    return all(value_at(values, key) == recorded for key, recorded in params.items())
