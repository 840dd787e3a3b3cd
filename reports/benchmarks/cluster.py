"""What a Dask cluster costs beside this machine's own processes, with two workers each.

Encodes the default corpus again and again, as many bytes as asked for, with its trained tokenizer,
both ways; the ids must be the same. From the repository root, after `dvc repro prepare`:

    python reports/benchmarks/cluster.py 1000     # MB of text
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpus import tokenizers
from pipeline.corpus.cluster import encoded_by_cluster
from pipeline.corpus.encoding import encoded, jobs
from pipeline.corpus.readers import PIECE_CHARACTERS, Piece

TEXTS, TOKENIZER = Path("data/raw/texts"), Path("data/tokens/tokenizer.json")
WORKERS = 2


def pieces(text: str, size: int) -> Iterator[tuple[str, Piece]]:
    done, place = 0, 0
    while done < size:
        part = text[place : place + PIECE_CHARACTERS]
        place = (place + PIECE_CHARACTERS) % (len(text) - PIECE_CHARACTERS)
        done += len(part)
        yield "train", Piece(part, True)


def main() -> None:
    size = int(sys.argv[1]) * 1_000_000
    tokenizer = tokenizers.load(TOKENIZER)
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(TEXTS.iterdir()))
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    command += ["--host", "127.0.0.1", "--port", "0"]
    scheduler = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert scheduler.stderr is not None
    address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
    worker += ["--nthreads", "1", "--no-nanny"]
    started = [subprocess.Popen(worker, stderr=subprocess.DEVNULL) for _ in range(WORKERS)]
    ways = {
        "processes": lambda: encoded(tokenizer, jobs(pieces(text, size)), True, WORKERS),
        "Dask": lambda: encoded_by_cluster(tokenizer, jobs(pieces(text, size)), True, address),
    }
    for name, results in ways.items():
        begun, digest, tokens = time.monotonic(), hashlib.sha256(), 0
        for result in results():
            digest.update(result.ids.tobytes())
            tokens += len(result.ids)
        seconds = time.monotonic() - begun
        print(
            f"{name}: {seconds:.1f} s, {size / 1e6 / seconds:.1f} MB/s, {tokens:,} tokens, "
            f"sha256 {digest.hexdigest()[:16]}, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    for process in [*started, scheduler]:
        process.kill()


if __name__ == "__main__":
    main()
