"""One model on several processes: DDP copies it, FSDP2 (`fully_shard`) cuts it into shards.

DDP (Li et al. 2020) holds everything on every process and averages gradients; FSDP2 (Zhao et al.
2023) keeps 1 / size of weights, gradients and optimizer state on each and brings a block's weights
together while it computes. Both synchronise gradients once a step, after the last micro-batch.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.errors import TrainingError
from pipeline.model.gpt import GPT
from pipeline.training.ranks import Ranks
from pipeline.training.runtime import Runtime
from pipeline.training.sharding import whole

Forward: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Synced: TypeAlias = Callable[[bool], AbstractContextManager[Any]]  # of whether it is the last


def recompute_blocks(model: GPT) -> None:
    """Keep each block's input alone for the backward pass, and compute the rest once more there."""
    for block in model.h:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def parallelise(
    model: GPT, parallel: str, runtime: Runtime, ranks: Ranks
) -> tuple[Forward, Synced]:
    """What computes (ids, targets) -> loss, and the context for a micro-batch's passes.

    fsdp cuts `model` itself, so that its parameters are new ones: build optimizers after this.
    """
    loss = _Loss(model)  # logits given back would have gradients in a compiled one, of zeros
    if parallel == "fsdp":
        return loss, _shard(model, runtime, ranks)
    if ranks.size == 1:
        return torch.compile(loss) if runtime.compile else loss, lambda last: nullcontext()
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():
        # torch 2.13 calls it forward_sync_buffers
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        copies = DistributedDataParallel(
            loss,
            device_ids=[ranks.local_rank] if runtime.device == "cuda" else None,
            broadcast_buffers=False,  # the rotary tables, the same everywhere
            gradient_as_bucket_view=True,
        )
    forward = torch.compile(copies) if runtime.compile else copies
    return forward, lambda last: nullcontext() if last else copies.no_sync()


class _Loss(nn.Module):
    """A model's loss alone."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        return self.model(idx, targets)[1]  # type: ignore[no-any-return]


def _shard(model: GPT, runtime: Runtime, ranks: Ranks) -> Synced:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(runtime.device, (ranks.size,))
    computed_in = None if runtime.precision == "fp32" else runtime.dtype
    policy = MixedPrecisionPolicy(param_dtype=computed_in, reduce_dtype=torch.float32)
    for block in model.h:
        if runtime.compile:
            block.forward = torch.compile(block.forward)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    sharded = fully_shard(model, mesh=mesh, mp_policy=policy)

    def synced(last: bool) -> AbstractContextManager[Any]:
        sharded.set_requires_gradient_sync(last)
        return nullcontext()

    return synced


def gathered(model: GPT, first: bool) -> GPT | None:
    """A plain model on the CPU with a sharded one's weights, for the first process alone: every
    one must ask for it, but a machine's memory need not hold as many."""
    weights = {}
    for name, tensor in model.state_dict().items():
        all_of_it = whole(tensor)
        if first:
            weights[name] = all_of_it.cpu()
    if not first:
        return None
    plain = GPT(model.config)
    plain.load_state_dict(weights)
    return plain


def save_shards(folder: Path, model: GPT, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Every process writes its part of weights and optimizer state into the folder."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    weights, states = get_state_dict(model, optimizers)
    try:
        save({"model": weights, "optimizers": states}, checkpoint_id=folder)
    except CheckpointException as error:
        for reason, _ in error.failures.values():
            if isinstance(reason, OSError) or "unexpected pos" in str(reason):  # as torch says it
                raise TrainingError(f"{folder}: not written; make room and run it again") from None
        raise


def load_shards(folder: Path, model: GPT, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put back what any number of processes wrote."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    weights, states = get_state_dict(model, optimizers)  # their shapes; filled in place
    load({"model": weights, "optimizers": states}, checkpoint_id=folder)
    set_state_dict(model, optimizers, model_state_dict=weights, optim_state_dict=states)
