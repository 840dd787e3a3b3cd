"""Files from elsewhere, each checked against its pinned sha256 before anybody reads it.

Two ways in: pip, through whatever index, mirror or proxy the project was installed from, and a
plain URL. Neither leaves a file behind whose hash differs.
"""

import hashlib
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from pipeline.errors import FetchError

URL_TIMEOUT_SECONDS = 20


def pip_download(
    requirement: str, sha256: str, folder: Path, *, form: Literal["sdist", "wheel"]
) -> Path:
    """Bring one pinned distribution to `folder` with pip; nothing is installed or unpacked.

    `requirement` is exact, as `name==1.0`. Raises FetchError where the index cannot be reached or
    serves other bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary, "requirements.txt")
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
        command += ["--disable-pip-version-check", "--retries", "1", "--no-deps"]
        command += ["--no-binary" if form == "sdist" else "--only-binary", ":all:"]
        command += ["--require-hashes", "--dest", str(folder), "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    name = requirement.partition("==")[0].replace("-", "_")
    found = [path for path in folder.iterdir() if path.name.replace("-", "_").startswith(name)]
    if done.returncode or len(found) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        lines = [line for line in lines if line.startswith("ERROR:")] or lines or ["no file came"]
        reason = lines[-1].removeprefix("ERROR: ")
        raise FetchError(f"{requirement}: pip could not download it: {reason}")
    return found[0]


def url_download(url: str, sha256: str, path: Path, advance: Callable[[int], None]) -> None:
    """Bring the file at `url` to `path`; `advance` hears of each piece's bytes.

    Raises FetchError where the address cannot be reached or serves other bytes.
    """
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as answer,
            path.open("wb") as file,
        ):
            while piece := answer.read(1 << 20):
                file.write(piece)
                digest.update(piece)
                advance(len(piece))
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        path.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error
        raise FetchError(f"{url}: could not be downloaded: {reason}") from None
    if digest.hexdigest() != sha256:
        path.unlink()
        raise FetchError(f"{url}: found sha256 {digest.hexdigest()}; pinned: {sha256}")
