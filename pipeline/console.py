"""The console of what people read in a terminal and send through a pipe alike."""

import sys

from rich.console import Console


def uncut_console() -> Console:
    """As wide as the terminal; in a file or a pipe no line is cut."""
    return Console(width=None if sys.stdout.isatty() else 10_000)
