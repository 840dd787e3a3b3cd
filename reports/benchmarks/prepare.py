"""Measures prepare on a gigabyte of text, and training's start on a gigabyte of tokens (Linux).

    python reports/benchmarks/prepare.py FOLDER     (6 GB free there; about four idle minutes)

The text is the complete works of Shakespeare over and over, with the lines in another order each
time. prepare runs with one process and with two in turn, beside tiktoken's own encode_ordinary
with the published pattern on the first 128 MB as a whole. Writes prepare.json and prepare.md beside
this file. Rates are by the clock and by processor time: the second says what a core does when
others use the machine too.
"""

import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.corpus.batches import Batches  # noqa: E402
from pipeline.corpus.split_writer import SplitWriter  # noqa: E402
from pipeline.corpus.token_file import load_split  # noqa: E402
from pipeline.corpus.tokenizers import load  # noqa: E402

BYTES = 1_000_000_000
WHOLE_BYTES = 128_000_000
REPEATS = 2
MB = 1e6


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make_project(folder)
    runs: list[dict[str, Any]] = []
    wholes: list[dict[str, Any]] = []
    for _ in range(REPEATS):
        for workers in (1, 2):
            runs.append(prepare(folder, workers))
            print(runs[-1], flush=True)
        wholes.append(in_child(folder, "whole_file"))
    starts = [in_child(folder, f"start_{name}") for name in ("small", "large")]
    record = {
        "command": "python reports/benchmarks/prepare.py FOLDER",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "machine": {
            "cpu": re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0],
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": platform.platform(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("tiktoken", "numpy", "torch")},
        },
        "text_bytes": BYTES,
        "prepare": runs,
        "encode_ordinary_whole_file": wholes,
        "start_of_training": starts,
    }
    (HERE / "prepare.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (HERE / "prepare.md").write_text(page(record), encoding="utf-8")


def make_project(folder: Path) -> None:
    """params.yaml, a gigabyte of text fetched, two token files for `start`."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for key, value in {"tokenizer": "gpt2", "name": "shakespeare"}.items():
        text = re.sub(rf"(?m)^  {key}: \S+", f"  {key}: {value}", text)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    if not (folder / "data/own/text.txt").is_file():
        shutil.rmtree(folder / "data/own", ignore_errors=True)
        command(folder, "fetch")
        lines: list[str] = []
        for path in sorted((folder / "data/raw/texts").iterdir()):
            lines += path.read_text(encoding="utf-8").splitlines(keepends=True)
        draw, left = random.Random(0), BYTES
        (folder / "data/own").mkdir(parents=True)
        with (folder / "data/own/text.txt").open("w", newline="", encoding="utf-8") as file:
            while left:
                draw.shuffle(lines)
                part = "".join(lines)[:left]
                file.write(part)
                left -= len(part)
    command(folder, "fetch")


def prepare(folder: Path, workers: int) -> dict[str, Any]:
    params = folder / "params.yaml"
    text = re.sub(r"(?m)^  workers: \S+", f"  workers: {workers}", params.read_text())
    params.write_text(text)
    shutil.rmtree(folder / "data/tokens", ignore_errors=True)
    started = time.perf_counter()
    run = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "prepare"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    parent, peaks, seconds = psutil.Process(run.pid), dict[int, float](), dict[int, float]()
    while run.poll() is None:
        try:
            for process in (parent, *parent.children(recursive=True)):
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks[process.pid] = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 / MB
                seconds[process.pid] = sum(process.cpu_times()[:2])
        except (psutil.NoSuchProcess, FileNotFoundError, IndexError):
            pass
        time.sleep(0.1)
    clock = time.perf_counter() - started
    meta = json.loads((folder / "data/tokens/meta.json").read_text())
    tokens = sum(split["tokens"] for split in meta["splits"].values())
    assert run.stdout is not None
    told = re.findall(r"tokenized .* in ([\d.]+) s", run.stdout.read())
    return {
        "processes": workers,
        "seconds": round(clock, 1),
        "seconds_tokenizing": float(told[0]),
        "processor_seconds": [round(value, 1) for value in seconds.values()],
        "million_tokens_per_second": round(tokens / clock / 1e6, 2),
        "million_tokens_per_processor_second": round(tokens / sum(seconds.values()) / 1e6, 2),
        "peak_mb_by_process": [round(value) for value in peaks.values()],
        "tokens": tokens,
        "train_sha256": meta["splits"]["train"]["sha256"],
        "load_average": round(os.getloadavg()[0], 1),
    }


def whole_file() -> dict[str, Any]:
    """tiktoken by itself, in a process of its own."""
    import tiktoken

    tokenizer = load(Path("data/tokens/tokenizer.json"))
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=tokenizer.to_json()["pattern"],
        mergeable_ranks={tokenizer.token_bytes(n): n for n in range(tokenizer.eot_id)},
        special_tokens={},
    )
    with open("data/own/text.txt", encoding="utf-8", newline="") as file:
        text = file.read(WHOLE_BYTES)
    clock, processor = time.perf_counter(), time.process_time()
    ids = encoding.encode_ordinary(text)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return {
        "text_bytes": WHOLE_BYTES,
        "million_tokens_per_second": round(len(ids) / clock / 1e6, 2),
        "million_tokens_per_processor_second": round(len(ids) / processor / 1e6, 2),
        "peak_mb": round(status_mb("VmHWM")),
        "load_average": round(os.getloadavg()[0], 1),
    }


def start(name: str, millions: int) -> dict[str, Any]:
    """From opening the token file to the first batch, and the memory after a thousand."""
    folder = Path("start", name)
    tokenizer = load(Path("data/tokens/tokenizer.json"))
    if not folder.exists():
        folder.mkdir(parents=True)
        part = np.random.default_rng(0).integers(0, 50256, 1_000_000).astype("<u2")
        with SplitWriter(folder, "train", "bin", tokenizer, 10**9) as writer:
            for shift in range(millions):
                writer.append(np.roll(part, shift))
            stated = {"train": writer.finish()}
        tokenizer.save(folder / "tokenizer.json")
        meta = {"format": "bin", "tokenizer": {"sha256": tokenizer.sha256}, "splits": stated}
        (folder / "meta.json").write_text(json.dumps(meta))
    before, clock = status_mb("VmRSS"), time.perf_counter()
    batches = Batches(load_split(folder, "train").tokens, 1024, 8, "random", 1)
    batches.sequences(1, 0, 8)
    seconds = time.perf_counter() - clock
    peak = 0.0
    for step in range(2, 1001):
        batches.sequences(step, 0, 8)
        peak = max(peak, status_mb("VmRSS"))
    return {
        "token_file_mb": round(batches.tokens.nbytes / MB),
        "seconds_to_first_batch": round(seconds, 3),
        "resident_mb_more_in_1000_steps": round(peak - before, 1),
    }


def in_child(folder: Path, what: str) -> dict[str, Any]:
    line = [sys.executable, str(Path(__file__).absolute()), "--child", what]
    run = subprocess.run(
        line, cwd=folder, env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    value = json.loads(run.stdout)
    assert isinstance(value, dict)
    print(value, flush=True)
    return value


def command(folder: Path, name: str) -> None:
    line = [sys.executable, "-m", "pipeline", name]
    subprocess.run(line, cwd=folder, env=environment(), check=True)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def output(*line: str) -> str:
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def status_mb(key: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{key}:\s+(\d+)", status)[0]) * 1024 / MB


def page(record: dict[str, Any]) -> str:
    machine = record["machine"]
    clock = {
        workers: [run["seconds"] for run in record["prepare"] if run["processes"] == workers]
        for workers in (1, 2)
    }
    ratio = statistics.median(clock[1]) / statistics.median(clock[2])
    rows = [
        f"| prepare, {run['processes']} process{'es' if run['processes'] > 1 else ''} | "
        f"{run['seconds']} | {run['million_tokens_per_second']} | "
        f"{run['million_tokens_per_processor_second']} | {max(run['peak_mb_by_process'])} | "
        f"{run['load_average']} |"
        for run in record["prepare"]
    ]
    rows += [
        f"| encode_ordinary, {whole['text_bytes'] // 1_000_000} MB whole | | "
        f"{whole['million_tokens_per_second']} | {whole['million_tokens_per_processor_second']} | "
        f"{whole['peak_mb']} | {whole['load_average']} |"
        for whole in record["encode_ordinary_whole_file"]
    ]
    starts = [
        f"| {start['token_file_mb']} | {start['seconds_to_first_batch']} | "
        f"{start['resident_mb_more_in_1000_steps']} |"
        for start in record["start_of_training"]
    ]
    return "\n".join(
        [
            "# prepare on a gigabyte of text\n",
            f"`{record['command']}`, {record['date']}, commit `{record['commit'][:12]}`, "
            f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
            f"tiktoken {machine['tiktoken']}. GPT-2's tokenizer, "
            f"{record['prepare'][0]['tokens']:,} tokens; the whole command is timed, with its "
            "checks and its first pass over the text.\n",
            "| | s | M tokens/s | M tokens/processor s | peak MB a process | load |",
            "|---|---|---|---|---|---|",
            *rows,
            f"\nTwo processes against one, by the clock: {ratio:.2f} times.\n",
            "| token file, MB | s to the first batch | MB more in memory after 1,000 steps |",
            "|---|---|---|",
            *starts,
            "",
        ]
    )


CHILDREN = {
    "whole_file": whole_file,
    "start_small": lambda: start("small", 5),
    "start_large": lambda: start("large", 500),
}

if __name__ == "__main__":
    if sys.argv[1] == "--child":
        print(json.dumps(CHILDREN[sys.argv[2]]()))
    else:
        main(Path(sys.argv[1]).absolute())
