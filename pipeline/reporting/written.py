"""Results that are written, or compared with what they should be: files, README sections."""

from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.errors import ReportError
from pipeline.paths import README
from pipeline.reporting.readme import differing, fill
from pipeline.storage import write_bytes

FIGURES_OF_BEFORE = (".png", ".tmp")  # whole, or what a killed process left of one


def left_over(folder: Path, files: Collection[Path]) -> list[Path]:
    """The figures below a folder that are not among `files`, of runs before; raises ReportError
    where anything else is there."""
    found = [path for path in folder.rglob("*") if path.is_file() and path not in files]
    for path in found:
        if path.suffix not in FIGURES_OF_BEFORE and not path.name.startswith("."):
            raise ReportError(f"{path}: found among the figures; allowed: figures; move it away")
    return [path for path in found if path.suffix in FIGURES_OF_BEFORE]


def write_results(
    files: Mapping[Path, bytes], leftover: Collection[Path], sections: Mapping[str, str]
) -> None:
    """Write what differs and remove what is left over; nothing where the README's markers are
    broken, a ReportError."""
    readme = README.read_bytes()
    filled = fill(readme, sections)  # before any write
    for path in _changed(files):
        write_bytes(path, files[path])
    for path in leftover:
        path.unlink()
        print(f"removed {path}: a figure of an earlier run")
    if filled != readme:
        write_bytes(README, filled)


def differing_files(files: Mapping[Path, bytes], leftover: Collection[Path]) -> list[str]:
    """The files that `write_results` would write or remove."""
    return [path.as_posix() for path in (*_changed(files), *leftover)]


def differing_sections(sections: Mapping[str, str], required: bool = True) -> list[str]:
    """The README's sections that `write_results` would write; not `required`, and one that the
    README does not have is none."""
    readme = README.read_bytes()
    asked = {
        name: text
        for name, text in sections.items()
        if required or f"<!--AUTO:{name}:".encode() in readme
    }
    return [f"{README}: section {name}" for name in differing(readme, asked)]


def _changed(files: Mapping[Path, bytes]) -> list[Path]:
    return [
        path for path, data in files.items() if not (path.is_file() and path.read_bytes() == data)
    ]
