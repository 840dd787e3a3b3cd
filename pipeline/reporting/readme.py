"""The README's marked sections: `<!--AUTO:NAME:START-->` to `<!--AUTO:NAME:END-->`.

Only what stands between the markers is ever read or written. The rest of the file is people's,
and stays as it is to the byte: its encoding, its line ends, a missing last newline.
"""

import re
from collections.abc import Mapping

from pipeline.errors import ReportError
from pipeline.paths import README

MARKER = re.compile(rb"<!--AUTO:(\w+):(START|END)-->")


def fill(readme: bytes, sections: Mapping[str, str]) -> bytes:
    """The README with each section's text between its markers; raises ReportError."""
    spans = _find(readme, sections)
    filled, position = b"", 0
    for section, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        filled += readme[position:start] + _body(sections[section], readme[start:])
        position = end
    return filled + readme[position:]


def differing(readme: bytes, sections: Mapping[str, str]) -> list[str]:
    """The names of the sections whose text is not what `fill` would write."""
    return [
        section
        for section, (start, end) in _find(readme, sections).items()
        if readme[start:end] != _body(sections[section], readme[start:])
    ]


def _body(text: str, after_marker: bytes) -> bytes:
    """What stands between the markers, in the line ends that the file has there."""
    body = MARKER.sub(rb"<!-- AUTO:\1:\2 -->", text.strip("\n").encode())  # a sample says anything
    newline = b"\r\n" if after_marker.startswith(b"\r\n") else b"\n"
    return b"\n".join([b"", body, b""]).replace(b"\n", newline)


def _find(readme: bytes, sections: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Where each section's text starts and ends; other sections must only be well formed."""
    spans: dict[str, tuple[int, int]] = {}
    opened: str | None = None
    start = 0
    for marker in MARKER.finditer(readme):
        section, kind = (group.decode() for group in marker.groups())
        line = readme.count(b"\n", 0, marker.start()) + 1
        where = f"{README}: line {line}: marker {section}:{kind}"
        if kind == "START":
            if opened:
                raise ReportError(f"{where}: found inside {opened}; allowed: after {opened}:END")
            if section in spans:
                raise ReportError(f"{where}: found twice; allowed: once")
            opened, start = section, marker.end()
        else:
            if opened != section:
                raise ReportError(f"{where}: found alone; allowed: after {section}:START")
            spans[section] = (start, marker.start())
            opened = None
    if opened:
        raise ReportError(f"{README}: marker {opened}:START: found alone; allowed: before an END")
    for section in sections:
        if section not in spans:
            raise ReportError(
                f"{README}: section {section}: found no markers; allowed: "
                f"<!--AUTO:{section}:START--> and <!--AUTO:{section}:END--> once each"
            )
    return {section: spans[section] for section in sections}
