"""The README's Python runs as it stands there, on a finished run."""

import re
import sys
from pathlib import Path

import pytest
from tiny_project import ROOT, run

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_each_example_runs(number: int, finished: Path) -> None:
    done = run(finished, sys.executable, "-W", "error", "-c", EXAMPLES[number])
    assert done.stdout.startswith("BIANCA:\n")


def test_there_is_one() -> None:
    assert len(EXAMPLES) == 1
