"""Results that are written, or compared with what they should be: files, README sections."""

from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.paths import README
from pipeline.reporting.readme import differing, fill
from pipeline.storage import write_bytes


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
