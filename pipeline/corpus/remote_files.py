"""Text on other machines (s3://, gs://, memory://, ...), brought here by fsspec."""

import re
from pathlib import Path

import fsspec

from pipeline.errors import CorpusError


def is_remote(path: str) -> bool:
    """Whether a path is an address with a protocol."""
    return "://" in path


def bring(address: str, folder: Path) -> Path:
    """Copy the file or folder at `address` into `folder`, a new one; returns where it lies.

    Raises CorpusError where it is not there, cannot be reached, or its protocol has no library.
    """
    try:
        files, path = fsspec.core.url_to_fs(address)
        if files.isfile(path):
            name = re.split("[?#]", str(path))[0] if address.startswith("http") else str(path)
            here = folder / (name.rsplit("/", 1)[-1] or "text")
            folder.mkdir(parents=True)
            files.get_file(path, str(here))
            return here
        files.get(f"{path.rstrip('/')}/", f"{folder}/", recursive=True)
    except Exception as error:  # each protocol's library has its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CorpusError(
            f"corpus.path: {address} cannot be read: {reason}; allowed: a file or a folder on this "
            'machine, or s3:// (pip install -c constraints.txt -e ".[s3]"), or another protocol '
            "that fsspec has"
        ) from None
    return folder
