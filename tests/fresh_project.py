"""A project folder as a user has it before the first run: params.yaml, and what `put` adds."""

import shutil
from pathlib import Path

import pytest

PARAMS = Path(__file__).parent.parent / "params.yaml"


def enter_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the shipped params.yaml into `folder` and make it the working directory."""
    shutil.copy(PARAMS, folder)
    monkeypatch.chdir(folder)
    return folder


def set_param(key: str, value: str) -> None:
    """Change the first setting of this name."""
    lines = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith(f"  {key}:"))
    lines[place] = f"  {key}: {value}"
    Path("params.yaml").write_text("\n".join(lines), encoding="utf-8")


def put(name: str, data: bytes) -> Path:
    """Write one of the user's own texts."""
    path = Path("data/own", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
