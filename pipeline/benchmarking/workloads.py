"""The named workloads of `bench`: the shapes, recipes and counts that are measured.

Those of speed have nanoGPT's own shapes and AdamW, so that both compute the same; those of quality
are free, and only the text, the split and the loss are the same.
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.params import Params

# `auto` says how the machine computes, and all start from scratch, whatever the project does
AUTO: dict[str, dict[str, Any]] = {
    "train": {
        "sequences_per_step": None,
        "precision": "auto",
        "compile": "auto",
        "attention": "auto",
        "activation_checkpointing": False,
        "numerics": "native",
        "parallel": "none",
        "nproc": 1,
        "stride": None,
        "max_seq_len": None,
        "init_from": "scratch",
        "freeze_layers": 0,
    },
}
# what nanoGPT trains with: GPT-2 without biases, exact GELU aside, AdamW, cosine
NANOGPT: dict[str, dict[str, Any]] = {
    "model": {"architecture": "gpt2", "size": "custom", "dropout": 0.0, "bias": False},
    "train": {
        "seed": 1337,
        "grad_accum_steps": 1,
        "batch_order": "random",
        "optimizer": "adamw",
        "lr": 1e-3,
        "min_lr": 1e-4,
        "schedule": "cosine",
        "warmup_steps": 100,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.99,
        "grad_clip": 1.0,
    },
}


@dataclass(frozen=True)
class Speed:
    """Steps of one shape, timed one by one."""

    tokenizer: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    micro_batch_size: int
    max_steps: int  # of the recipe that the shape comes from: decides about compiling
    warm_up: int  # steps, not timed
    steps: int  # timed

    def settings(self) -> dict[str, dict[str, Any]]:
        """What this workload sets of params.yaml."""
        shape = {name: getattr(self, name) for name in ("n_layer", "n_head", "n_embd")}
        return merged(
            NANOGPT,
            {
                "model": {**shape, "block_size": self.block_size},
                "train": {"micro_batch_size": self.micro_batch_size, "max_steps": self.max_steps},
            },
        )

    def nanogpt(self) -> dict[str, Any]:
        """The same for nanoGPT's train.py, as flags."""
        names = ("n_layer", "n_head", "n_embd", "block_size")
        return {
            **{name: getattr(self, name) for name in names},
            "batch_size": self.micro_batch_size,
            "dropout": 0.0,
            "max_iters": self.warm_up + self.steps,
            "lr_decay_iters": self.max_steps,
            "eval_interval": 10**9,
            "eval_iters": 1,
        }


@dataclass(frozen=True)
class Quality:
    """Whole runs, scored on the whole val split."""

    tokenizer: str
    settings: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    target: float | None = None  # val loss, nats per token
    nanogpt: dict[str, Any] = field(default_factory=dict)  # the recipe it is compared with


SPEED = {
    # nanoGPT's README, "I only have a macbook"
    "char": Speed("char", 4, 4, 128, 64, 12, max_steps=2000, warm_up=50, steps=300),
    # its config/train_shakespeare_char.py with a batch for a CPU
    "10m": Speed("char", 6, 6, 384, 256, 8, max_steps=5000, warm_up=5, steps=15),
    "124m": Speed("gpt2", 12, 12, 768, 256, 4, max_steps=5000, warm_up=3, steps=6),
    "124m-1024": Speed("gpt2", 12, 12, 768, 1024, 12, max_steps=5000, warm_up=20, steps=50),
}
# "char" as its README runs it, to the end
MACBOOK = {**SPEED["char"].nanogpt(), "max_iters": 2000, "eval_interval": 250, "eval_iters": 20}
MODERN: dict[str, dict[str, Any]] = {
    "model": {"architecture": "modern", "size": "custom", "dropout": 0.0},
    "train": {
        "grad_accum_steps": 1,
        "batch_order": "random",
        "optimizer": "muon",
        "lr": 2e-2,
        "muon_lr_ratio": 2.0,
        "embedding_lr_ratio": 1.0,
        "min_lr": 0.0,
        "schedule": "wsd",
        "warmup_steps": 10,
        "decay_fraction": 0.8,
        "weight_decay": 0.0,
        "beta1": 0.9,
        "beta2": 0.95,
        "grad_clip": 1.0,
    },
}


def merged(
    settings: dict[str, dict[str, Any]], changes: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The settings of params.yaml's sections with changes to some of their keys."""
    sections = {**settings, **changes}
    return {name: {**settings.get(name, {}), **changes.get(name, {})} for name in sections}


def with_settings(params: Params, changes: dict[str, dict[str, Any]]) -> Params:
    """The project's own settings with a workload's in their place, checked as a whole."""
    return Params.model_validate(merged(merged(params.model_dump(), AUTO), changes))


QUALITY = {
    "char-1.898": Quality(
        "char",
        merged(
            MODERN,
            {
                "model": {"n_layer": 2, "n_head": 2, "n_embd": 128, "block_size": 64},
                "train": {"micro_batch_size": 16, "max_steps": 270},
            },
        ),
        seeds=(1, 2, 3),
        target=1.898,
        nanogpt=MACBOOK,
    ),
    "char-120s": Quality(
        "char",
        merged(
            MODERN,
            {
                "model": {"n_layer": 4, "n_head": 2, "n_embd": 128, "block_size": 256},
                "train": {
                    "micro_batch_size": 8,
                    "batch_order": "shuffled",
                    "max_steps": 2000,
                    "muon_lr_ratio": 1.5,
                    "weight_decay": 0.2,
                    "compile": "on",
                    "threads": 1,
                },
            },
        ),
        seeds=(1,),
    ),
}
