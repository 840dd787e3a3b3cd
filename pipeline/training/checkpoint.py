"""Checkpoints: a .pt file holding one dict of tensors and plain values.

Keys: config (GPTConfig's fields), model_state_dict, step, loss (training, nats per token),
best_loss (val, nats per token), learning_rate, history, tokenizer (its JSON); last.pt also has
optimizer_state_dict. See model/tensor_file.py for how the file is read and written.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model.gpt import GPT
from pipeline.model.pretrained import build_model
from pipeline.model.tensor_file import plain_copy, read_tensors
from pipeline.training.sharding import whole

KEYS = ("config", "model_state_dict", "step", "tokenizer")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dict of a checkpoint file, its keys checked."""
    checkpoint = read_tensors(path)
    missing = [key for key in KEYS if key not in checkpoint]
    if missing:
        raise CheckpointError(f"{path}: not one of ours: {', '.join(missing)} missing")
    return checkpoint


def load_checkpoint(path: str | Path, device: str = "cpu") -> tuple[GPT, dict[str, Any]]:
    """The model of a checkpoint, in eval mode on `device`, and the checkpoint's dict.

    Raises CheckpointError where the file is missing, damaged, foreign, or does not fit.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    config, weights = checkpoint["config"], checkpoint["model_state_dict"]
    if not isinstance(config, dict) or not isinstance(weights, dict):
        raise CheckpointError(f"{path}: its config and its weights must each be a dict")
    try:
        model = build_model(weights, config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return model.to(device), checkpoint


def checkpoint_payload(model: GPT, **facts: Any) -> dict[str, Any]:
    """The dict that a checkpoint file holds; facts: its other keys, in their order."""
    weights = plain_copy(model.state_dict())
    return {"config": asdict(model.config), "model_state_dict": weights, **facts}


def optimizer_tensors(
    model: GPT, optimizers: Sequence[torch.optim.Optimizer], keep: bool = True
) -> dict[str, dict[str, Tensor]]:
    """Every optimizer's state as {parameter's name: {state's name: tensor}}, in a fixed order.

    Of sharded ones every process must ask for it; keep: whether this one has a use for it.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            if parameter in optimizer.state:
                state = optimizer.state[parameter]
                # interned, as pickle writes one string object twice in another way than two
                tensors = {sys.intern(key): whole(state[key]) for key in sorted(state)}
                if keep:
                    states[name] = plain_copy(tensors)
    return states


def load_optimizer_tensors(
    model: GPT, optimizers: Sequence[torch.optim.Optimizer], states: dict[str, dict[str, Tensor]]
) -> None:
    """Put back what optimizer_tensors took."""
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            if name in states and parameter in optimizer.state:
                optimizer.state[parameter] = {
                    key: tensor.to(parameter.device) for key, tensor in states[name].items()
                }
