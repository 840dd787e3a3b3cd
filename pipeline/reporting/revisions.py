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
from typing import Any, BinaryIO

from pathspec import GitIgnoreSpec

from pipeline.dvc_lock import LOCK, parse_lock
from pipeline.errors import ParamsError, ReportError


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
                f"corpus.path, train.init_from: found {path}, outside of the project; "
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

    def md5(self, path: str) -> str | None:
        """The DVC hash of a file or folder as it is now, None where it is missing."""
        target = Path(path)
        if target.is_dir():
            return folder_md5({name: _file_md5(target / name) for name in self.names(path)})
        return _file_md5(target) if target.is_file() else None

    def names(self, path: str) -> list[str]:
        """The files of a folder, by their paths in it."""
        found = (file for file in Path(path).rglob("*") if file.is_file() and not ignored(file))
        return [file.relative_to(path).as_posix() for file in found]


class Revision:
    """The project as a commit holds it, what DVC tracks as DVC's cache holds it."""

    def __init__(self, name: str) -> None:
        from dvc.api import DVCFileSystem  # a second to import
        from dvc_data.index import DataIndexError  # of a folder whose listing is missing

        self.name, self.commit = name, resolve(name)
        # without a remote: what a commit's results are made of is to be here
        without = {"core": {"remote": ""}}
        self._files = DVCFileSystem(rev=self.commit, subrepos=True, config=without)
        self._folder = git("rev-parse", "--show-prefix").decode().strip()  # the project's, in git
        self._missing = (OSError, DataIndexError)

    def read(self, path: str) -> bytes | None:
        try:
            return bytes(self._files.read_bytes(self._folder + path))
        except self._missing:
            return None

    def md5(self, path: str, beside: bool = False) -> str | None:
        """The DVC hash of a file's or folder's content, None where any of it is missing.

        beside: with the folder's files that are on disk alone, of one's own.
        """
        top = self._folder + path
        if not self._files.exists(top):
            # a text of the user's own that neither git nor DVC holds: as it is on disk
            return WorkingTree().md5(path)
        try:
            if not self._files.isdir(top):
                return self._file_md5(top)
            names = self._files.find(top, dvcfiles=True)
            files = {str(PurePosixPath(n).relative_to(top)): self._file_md5(n) for n in names}
        except self._missing:
            return None
        if beside:
            here = WorkingTree().names(path)
            files |= {name: _file_md5(Path(path, name)) for name in here if name not in files}
        return folder_md5(files) if files else None

    def _file_md5(self, path: str) -> str:
        with self._files.open(path) as file:
            return _md5_of(file)


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
    raise ReportError(
        f"--rev: found {name!r}; allowed: a git revision, or the name of an experiment; "
        f"`dvc exp pull origin {name}` brings one that is not here"
    )


def ignored(path: Path) -> bool:
    """Whether .dvcignore, of the project's top folder, has DVC pass over a file."""
    return not path.is_absolute() and dvcignore().match_file(path)


@cache
def dvcignore() -> GitIgnoreSpec:
    """The patterns in .dvcignore."""
    data = WorkingTree().read(".dvcignore")
    return GitIgnoreSpec.from_lines((data or b"").decode().splitlines())


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return _md5_of(file)


def _md5_of(file: BinaryIO) -> str:
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
