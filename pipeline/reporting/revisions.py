"""The project at one time: as it is on disk, or as a commit and DVC's cache hold it.

Both read files, and hash what dvc.lock records as DVC does.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from pathspec import GitIgnoreSpec

from pipeline.dvc_cache import DvcCache
from pipeline.dvc_lock import LOCK, outputs, parse_lock
from pipeline.errors import ParamsError, ReportError
from pipeline.storage import parse_yaml


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


def untracked(paths: Iterable[str]) -> list[str]:
    """The files and folders at these relative paths that git does not have, and a checkout lacks.

    Each can be copied into a checkout by itself: a folder is not there yet, a file's folder is.
    Raises ParamsError for a path that leaves the project: a copy of it would not have that.
    """
    found: set[Path] = set()
    for path in sorted({path for path in paths if not Path(path).is_absolute()}):
        if os.path.normpath(path).startswith(".."):
            raise ParamsError(
                f"corpus.path: found {path}, outside of the project; "
                "allowed: a path inside it, or an absolute one"
            )
        folder = Path(path).parent
        if Path(path).is_file() and not git("ls-files", "--", str(folder)):
            found.add(folder)
            continue
        names = git("ls-files", "--others", "--directory", "-z", "--", path).decode().split("\0")
        found |= {Path(name) for name in names if name}
    return sorted(str(path) for path in found if found.isdisjoint(path.parents))


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
            files = [file for file in target.rglob("*") if file.is_file() and not _ignored(file)]
            return folder_md5({f.relative_to(target).as_posix(): _file_md5(f) for f in files})
        return _file_md5(target) if target.is_file() else None

    read_output = read


class Revision:
    """The project as a commit holds it, its cached data in DVC's cache."""

    def __init__(self, name: str) -> None:
        self.name, self.cache = name, DvcCache()
        self.commit = resolve(name)
        self._outputs = {out["path"]: out["md5"] for out in outputs(read_lock(self))}

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
            ignored = ignore_spec(self.read(".dvcignore"))
            names = [name for name in listing.decode().split("\0") if name not in ("", path)]
            names = [name for name in names if not ignored.match_file(name)]
            files = {
                str(PurePosixPath(n).relative_to(path)): md5(self.read(n) or b"") for n in names
            }
            for name in names:
                if name.endswith(".dvc"):
                    files |= self._added(PurePosixPath(name), PurePosixPath(path))
            if files:
                return folder_md5(files)
            if any(f"{path}/".startswith(f"{out}/") for out in self._outputs):
                return None
            # a text of the user's own that neither git nor DVC holds: as it is on disk
            return WorkingTree().md5(path, locked)
        if locked.endswith(".dir") and md5(data) + ".dir" == locked:
            for name in self.cache.listing(locked).values():
                held = self.cache.read(name)
                if held is None or md5(held) != name:
                    return None
            return locked
        return md5(data)

    def _added(self, dvc_file: PurePosixPath, folder: PurePosixPath) -> dict[str, str]:
        """{path in the folder: md5} of what a .dvc file in it says that `dvc add` keeps."""
        files: dict[str, str] = {}
        data, remedy = self.read(str(dvc_file)) or b"", "allowed: as `dvc add` writes it"
        for out in parse_yaml(data, dvc_file, ReportError, remedy).get("outs", []):
            target = str((dvc_file.parent / out["path"]).relative_to(folder))
            inner = self.cache.listing(out["md5"]) if out["md5"].endswith(".dir") else {}
            files |= {f"{target}/{name}": held for name, held in inner.items()}
            if not inner:
                files[target] = out["md5"]
        return files

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


def _ignored(path: Path) -> bool:
    """Whether .dvcignore, of the project's top folder, has DVC pass over a file."""
    return not path.is_absolute() and dvcignore().match_file(path)


@cache
def dvcignore() -> GitIgnoreSpec:
    """The patterns in .dvcignore."""
    return ignore_spec(WorkingTree().read(".dvcignore"))


def ignore_spec(data: bytes | None) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines((data or b"").decode().splitlines())


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_lock(tree: Tree) -> dict[str, Any]:
    """The stages of dvc.lock at that time."""
    data = tree.read(LOCK.as_posix())
    if data is None:
        raise ReportError(f"{LOCK}: not found in {tree.name}; run `dvc repro`")
    return parse_lock(data)


def value_at(values: Any, key: str) -> Any:
    """The value under a dotted key of nested dicts, None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
