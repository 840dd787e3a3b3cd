"""The script that measures a GPU's goals runs, part by part, with a tiny model on a CPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_project import ROOT, words

SCRIPT = ROOT / "reports" / "benchmarks" / "gpu.py"


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--rehearse", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_every_part_that_needs_no_peer_runs_and_bytes_are_equal(tmp_path: Path) -> None:
    text = tmp_path / "input.txt"
    text.write_text(words(3000), encoding="utf-8")
    parts = ("memorised", "memorised-gpt2", "twice", "killed", "precision")
    done = rehearse("--text", str(text), *parts)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for part in ("memorised", "memorised-gpt2"):
        seeds = [line for line in lines if line.startswith(f"{part}: seed")]
        assert len(seeds) == 3
        assert all("steps 60, mean_loss_last_100 " in line for line in seeds)
    assert "twice: runs 3, equal 1" in lines
    assert "killed: kills 2, equal 1" in lines
    apart = float(re.sub("precision: apart ", "", lines[-1]))
    assert 0 < apart < 0.01
    assert not SCRIPT.with_suffix(".json").exists()


def test_a_part_that_there_is_not_is_one_line() -> None:
    done = rehearse("memorized")
    assert done.returncode == 2
    assert "found memorized; allowed: memorised, " in done.stderr.splitlines()[-1]
