"""Results that are written, or compared with what they should be: files, README sections."""

from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.errors import ReportError
from pipeline.paths import README
from pipeline.reporting.readme import differing, fill
from pipeline.storage import write_bytes

FIGURES_OF_BEFORE = (".png", ".tmp")  # whole, or what a killed process left of one


def is_file_managers(path: Path) -> bool:
    """Whether a file is what a file manager left in the folder."""
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini")


def left_over(folder: Path, files: Collection[Path]) -> list[Path]:
    """The figures below a folder that are not among `files`, of runs before; raises ReportError
    where anything else is there."""
    found = [path for path in folder.rglob("*") if path.is_file() and path not in files]
    for path in found:
        if path.suffix not in FIGURES_OF_BEFORE and not is_file_managers(path):
            raise ReportError(f"{path}: found among the figures; allowed: figures; move it away")
    return [path for path in found if path.suffix in FIGURES_OF_BEFORE]


def write_or_compare(
    files: Mapping[Path, bytes],
    leftover: Collection[Path],
    sections: Mapping[str, str],
    check: bool,
    said: str,
    required: bool = True,
) -> list[Path]:
    """Write what differs and remove what is left over, which is returned; nothing where the
    README's markers are broken, a ReportError.

    check: write nothing, and raise a ReportError where anything differs: it is "not what {said}".
    Not `required`, a section that the README does not have is none to compare.
    """
    if not README.is_file():
        raise ReportError(f"{README}: not found; run from the project's top folder")
    readme = README.read_bytes()
    if check:
        asked = {
            name: text
            for name, text in sections.items()
            if required or f"<!--AUTO:{name}:".encode() in readme
        }
        wrong = [f"{README}: section {name}" for name in differing(readme, asked)]
        wrong += [path.as_posix() for path in (*_changed(files), *leftover)]
        if wrong:
            raise ReportError(f"{', '.join(wrong)}: not what {said}")
        return []
    filled = fill(readme, sections)  # before any write
    for path in _changed(files):
        write_bytes(path, files[path])
    for path in leftover:
        path.unlink()
    if filled != readme:
        write_bytes(README, filled)
    return list(leftover)


def _changed(files: Mapping[Path, bytes]) -> list[Path]:
    return [
        path for path, data in files.items() if not (path.is_file() and path.read_bytes() == data)
    ]
