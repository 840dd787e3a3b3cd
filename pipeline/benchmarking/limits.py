"""What this machine can do at most: matrix products in each precision, and memory.

Runs as a process of its own, `python -m pipeline.benchmarking.limits DEVICE THREADS`, and prints
JSON: a library's settings are read once, when it starts.
"""

import json
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.benchmark import Timer

SIZES = {"cpu": (1024, 2048), "cuda": (8192, 16384)}  # square products; the fastest counts
SECONDS = 1.0  # of each product


def seconds(call: Callable[[], object]) -> float:
    """The median time of a call."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=SECONDS).median


def matmul(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of the fastest square product, on random data."""
    fastest = 0.0
    for size in SIZES[device]:
        generator = torch.Generator().manual_seed(0)
        a, b = (
            torch.randn(size, size, generator=generator).to(device=device, dtype=dtype)
            for _ in "ab"
        )
        took = seconds(partial(torch.mm, a, b, out=torch.empty_like(a)))
        fastest = max(fastest, 2 * size**3 / took)
        if took > SECONDS:  # emulated, and a larger one is as slow
            break
    return fastest


def copy(device: str) -> float:
    """Bytes/s read and written by a copy far larger than the caches."""
    source = torch.zeros(1 << 28 if device == "cpu" else 1 << 32, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source))


def main(device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    limits = {"fp32_gflops": matmul(torch.float32, device)}
    torch.set_float32_matmul_precision("medium" if device == "cpu" else "high")
    limits["fp32_onednn_gflops" if device == "cpu" else "tf32_gflops"] = matmul(
        torch.float32, device
    )
    limits["bf16_gflops"] = matmul(torch.bfloat16, device)
    limits["copy_gb_per_second"] = copy(device)
    print(json.dumps({name: value / 1e9 for name, value in limits.items()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
