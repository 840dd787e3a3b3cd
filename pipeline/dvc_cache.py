"""What DVC's cache holds: file contents by md5, and listings (.dir) of folders."""

import json
import subprocess
import sys
from pathlib import Path


class DvcCache:
    """The cache of this repository, also from inside a temporary copy that DVC runs in."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "dvc", "cache", "dir"]
        answer = subprocess.run(command, capture_output=True, text=True)
        self.folder = Path(answer.stdout.strip() or ".dvc/cache") / "files" / "md5"

    def path(self, md5: str) -> Path:
        """Where the content of a file lies, if the cache has it."""
        return self.folder / md5[:2] / md5[2:]

    def read(self, md5: str) -> bytes | None:
        """The content of a file, None where the cache does not have it."""
        path = self.path(md5)
        return path.read_bytes() if path.is_file() else None

    def listing(self, md5: str) -> dict[str, str]:
        """{relative path: md5} of a folder; empty where the cache does not have the listing."""
        data = self.read(md5)
        return {entry["relpath"]: entry["md5"] for entry in json.loads(data or b"[]")}
