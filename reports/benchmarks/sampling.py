"""Tokens per second of generation, beside nanoGPT's: same shape, one process, one CPU thread.

Rounds of A B A B: nanoGPT's `model.generate`, as its sample.py calls it, this project's `gpt2` with
the very same weights, with and without the cache, and `modern`. Writes sampling.json beside itself.

    python reports/benchmarks/sampling.py --peer PATH_TO_NANOGPT
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from pipeline.evaluation.sampling import generate
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.pretrained import build_model

HERE = Path(__file__).parent
SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 256, "block_size": 128, "vocab_size": 4096}
NEW_TOKENS, ROUNDS = 200, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of nanoGPT")
    peer = parser.parse_args().peer
    torch.set_num_threads(1)
    theirs = nanogpt(peer)
    gpt2 = build_model(theirs.state_dict(), {**SHAPE, "gelu": "none"})
    modern = GPT(GPTConfig("modern", **SHAPE)).eval()
    modern.initialise(1)
    torch.nn.init.normal_(modern.lm_head.weight, std=0.1)
    for model in (gpt2, modern):
        model.set_attention("matmul")  # what `generate` chooses for this shape on a CPU

    def ours(model: GPT, use_cache: bool = True) -> None:
        generate(
            model, [0], max_new_tokens=NEW_TOKENS, temperature=0.8, top_k=50, seed=1,
            use_cache=use_cache,
        )  # fmt: skip

    contestants: dict[str, Callable[[], object]] = {
        "nanoGPT": lambda: theirs.generate(
            torch.tensor([[0]]), NEW_TOKENS, temperature=0.8, top_k=50
        ),
        "gpt2, cache": lambda: ours(gpt2),
        "gpt2, no cache": lambda: ours(gpt2, use_cache=False),
        "modern, cache": lambda: ours(modern),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.no_grad():
        for number in range(ROUNDS + 1):
            for name, run in contestants.items():
                started = time.perf_counter()
                run()
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
    paired = {
        name: statistics.median(
            t / o for t, o in zip(seconds["nanoGPT"], seconds[name], strict=True)
        )
        for name in contestants
    }
    record = {
        "command": "python reports/benchmarks/sampling.py --peer PATH_TO_NANOGPT",
        "commit": git(Path(), "rev-parse", "HEAD"),
        "date": date.today().isoformat(),
        "machine": {
            "cpu": processor(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": 1,
        },
        "shape": SHAPE,
        "new_tokens": NEW_TOKENS,
        "rounds": ROUNDS,
        "seconds_median": {name: statistics.median(times) for name, times in seconds.items()},
        "seconds": seconds,
        "times_as_fast_as_nanogpt": paired,
    }
    (HERE / "sampling.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, times in seconds.items():
        print(f"{name:15} {statistics.median(times):.3f} s, {paired[name]:.2f} times nanoGPT")


def nanogpt(peer: Path) -> torch.nn.Module:
    """Its model with random weights."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", peer / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    return module.GPT(module.GPTConfig(**SHAPE, dropout=0.0, bias=True)).eval()


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    return done.stdout.strip()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


if __name__ == "__main__":
    main()
