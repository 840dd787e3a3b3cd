"""fetch: bring the corpus to data/raw, one's own text or a named source, verified.

data/raw/texts/ holds the files as they are; data/raw/manifest.json says what they are:

    {"name", "source", "sha256", "license", "separator", "files": [{"path", "bytes", "sha256"}]}

One's own text is of the kinds in formats.SUFFIXES. For a named source `sha256` is the pinned one of
what was downloaded; for one's own text it is over the files' names and hashes. Nothing in data/raw
changes before everything is there and verified.
"""

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from pipeline.corpus.formats import TOKEN_LISTS, Decoding, documents, suffix_of
from pipeline.corpus.remote_files import bring, is_remote
from pipeline.corpus.sources import OWN_FOLDER, SOURCES, fetch_named, own_files
from pipeline.corpus.token_lists import read_token_lists
from pipeline.dvc_lock import LOCK, parse_lock
from pipeline.errors import CorpusError
from pipeline.params import CorpusParams, load_params
from pipeline.paths import RAW
from pipeline.storage import put_in_place, scratch, sha256_file, sha256_json, write_json


def fetch() -> None:
    """Bring the corpus to data/raw: your text at corpus.path, else the source corpus.name.

    Example: python -m pipeline fetch
    """
    params = load_params().corpus
    console = Console()
    with scratch("fetch") as temporary:
        path = Path(params.path)
        if is_remote(params.path):
            path = bring(params.path, temporary / "remote")
        new = temporary / "raw"
        new.mkdir()
        try:
            own, left_out = own_files(path, params.pattern)
            if own:
                manifest = _take_own(own, params, new, console)
            else:
                _refuse_to_replace_own_text(params)
                manifest = _take_named(params.name, new, console)
        except CorpusError as error:
            if not is_remote(params.path):
                raise
            raise CorpusError(str(error).replace(str(path), params.path)) from None
        write_json(new / "manifest.json", manifest)
        put_in_place(new, RAW)
    total = sum(entry["bytes"] for entry in manifest["files"])
    console.print(
        f"{manifest['name']}: {len(manifest['files'])} files, {total:,} bytes in {RAW}, "
        f"sha256 {manifest['sha256'][:12]}",
        highlight=False,
    )
    if own and left_out:
        kinds = ", ".join(sorted({Path(name).suffix or "no suffix" for name in left_out}))
        console.print(f"left out: {len(left_out)} files of other kinds ({kinds})", highlight=False)


def _take_own(
    files: list[tuple[str, Path]], params: CorpusParams, new: Path, console: Console
) -> dict[str, Any]:
    token_lists = [name for name, _ in files if suffix_of(name) == TOKEN_LISTS]
    if token_lists and len(token_lists) < len(files):
        raise CorpusError(
            f"corpus.path: {params.path}: {token_lists[0]} holds token lists, others text; "
            "allowed: one or the other (corpus.pattern chooses)"
        )
    decoding = Decoding(params.errors)
    for name, path in files:
        _check_file(path, decoding, params.text_field)
        copy = new / "texts" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if decoding.replaced:
        console.print(f"replaced: {decoding.replaced:,} characters that are not UTF-8 (U+FFFD)")
    entries = _entries(new / "texts", [name for name, _ in files])
    if not any(entry["bytes"] for entry in entries):
        raise CorpusError(f"corpus.path: {params.path} holds no text: every file is empty")
    return {
        "name": "own",
        "source": params.path,
        "sha256": sha256_json([[entry["path"], entry["sha256"]] for entry in entries]),
        "license": None,
        "separator": None,
        "files": entries,
    }


def _check_file(path: Path, decoding: Decoding, text_field: str) -> None:
    """Read it all: raises CorpusError at the first place that is not what it should be."""
    if suffix_of(path.name) == TOKEN_LISTS:
        read_token_lists(path)
        return
    for blocks in documents(path, decoding, text_field):
        for _ in blocks:
            pass


def _refuse_to_replace_own_text(params: CorpusParams) -> None:
    """Raise CorpusError where the last result was made of own text that is no longer here.

    DVC has deleted data/raw by now, so dvc.lock says what it was made of.
    """
    lock = parse_lock(LOCK.read_bytes()) if LOCK.is_file() else {}
    deps = lock.get("fetch", {}).get("deps", [])
    then = [dep.get("nfiles", 0) for dep in deps if dep["path"] == OWN_FOLDER.as_posix()]
    shipped = int((OWN_FOLDER / "README.md").is_file())
    if then and then[0] > shipped:
        raise CorpusError(
            f"corpus.path: {OWN_FOLDER} holds no text, but the last result is of text in it "
            f"({LOCK}: {then[0]} files, now {shipped}); bring it (`git pull`, `dvc pull`, or who "
            f"has it), or, to take {params.name} instead, `rm {LOCK}` and run it again"
        )


def _take_named(name: str, new: Path, console: Console) -> dict[str, Any]:
    source = SOURCES[name]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"downloading {name}", total=source.bytes)
        fetch_named(name, new / "texts", lambda size: progress.advance(task, size))
    names = sorted(path.name for path in (new / "texts").iterdir())
    shutil.rmtree(new / "download", ignore_errors=True)
    return {
        "name": name,
        "source": source.address,
        "sha256": source.sha256,
        "license": source.license,
        "separator": source.separator,
        "files": _entries(new / "texts", names),
    }


def _entries(texts: Path, names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "path": name,
            "bytes": (texts / name).stat().st_size,
            "sha256": sha256_file(texts / name),
        }
        for name in names
    ]
