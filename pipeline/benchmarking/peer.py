"""nanoGPT's train.py as it is, in its own process, on the same tokens; its times are read from
the lines it prints (github.com/karpathy/nanoGPT)."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.corpus.token_file import load_split, read_meta
from pipeline.errors import BenchmarkError

NEEDED = ("train.py", "model.py", "configurator.py")
ITERATION = re.compile(r"^iter (\d+): loss [\d.]+, time ([\d.]+)ms", re.MULTILINE)


def check_peer(peer: Path) -> None:
    """Raise BenchmarkError where this is no checkout of nanoGPT."""
    missing = [name for name in NEEDED if not (peer / name).is_file()]
    if missing:
        raise BenchmarkError(
            f"{peer}: --peer: found no {', '.join(missing)}; allowed: a checkout of nanoGPT"
        )


def numbered(data: Path) -> tuple[dict[str, npt.NDArray[np.integer[Any]]], int]:
    """The ids of train and val, and the size of the vocabulary.

    Characters are numbered as nanoGPT's prepare.py does: those that occur, and no others.
    """
    streams = {split: load_split(data, split).tokens for split in ("train", "val")}
    ids = {split: np.asarray(stream[: len(stream)]) for split, stream in streams.items()}
    tokenizer = read_meta(data)["tokenizer"]
    if tokenizer["kind"] != "char":
        return ids, tokenizer["vocab_size"]
    kinds = np.unique(np.concatenate(list(ids.values())))
    return {split: np.searchsorted(kinds, values) for split, values in ids.items()}, len(kinds)


def lay_out(peer: Path, data: Path, folder: Path) -> None:
    """A working folder with links to nanoGPT's code and our tokens in its format."""
    tokens = folder / "data" / "tokens"
    tokens.mkdir(parents=True)
    for name in NEEDED:
        (folder / name).symlink_to((peer / name).resolve())
    ids, vocab_size = numbered(data)
    if read_meta(data)["tokenizer"]["kind"] == "char":
        (tokens / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocab_size}))
    for split, values in ids.items():  # without a meta.pkl it takes GPT-2's vocabulary, padded
        values.astype(np.uint16).tofile(tokens / f"{split}.bin")


def train(folder: Path, flags: dict[str, Any], device: str, threads: int) -> dict[str, Any]:
    """Run train.py with these flags; returns seconds of each iteration, and more.

    On a CPU without compilation, as its README says.
    """
    given = {
        "dataset": "tokens",
        "device": device,
        "compile": device == "cuda",
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "min_lr": 1e-4,
        "warmup_iters": 100,
        "beta2": 0.99,
        "log_interval": 1,
        "always_save_checkpoint": False,
        **flags,
    }
    number = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in given.items())]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise BenchmarkError(f"{folder}: nanoGPT's train.py ended with {run.returncode}: {last}")
    iterations = ITERATION.findall(run.stdout)
    interval = int(given["eval_interval"])
    # an iteration with a look at val in it (the first one always) is not one of training alone
    return {
        "seconds": [
            float(time) / 1e3 for number, time in iterations if int(number) % interval != 0
        ],
        "checkpoint": str(folder / "out" / "ckpt.pt"),
        "val_tokens": str(folder / "data" / "tokens" / "val.bin"),
    }


def val_loss(checkpoint: str, tokens: str) -> float:
    """Of what it trained, on its whole val split (a file of uint16), in nats per token.

    Every target counts once, in windows of the model's block_size one after another, as in ours.
    """
    from pipeline.evaluation.perplexity import score_split
    from pipeline.model.pretrained import load_pretrained

    ids, model = np.fromfile(tokens, np.uint16), load_pretrained(checkpoint).model
    return score_split(model, ids, overlap=0.0, batch_size=16, name="val").loss


if __name__ == "__main__":
    print(json.dumps({"val_loss": val_loss(*sys.argv[1:])}))
