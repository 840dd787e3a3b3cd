"""train.micro_batch_size: auto, the largest micro-batch that the memory takes."""

from bisect import bisect_left
from collections.abc import Callable

import torch

from pipeline.errors import TrainingError
from pipeline.model.gpt import GPT
from pipeline.training.division import divide, divisors
from pipeline.training.ranks import Ranks
from pipeline.training.runtime import Runtime

AUTO_ON_CPU = 8  # sequences; larger ones are no faster there


def largest_that_fits(share: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of the share for which `fits` is true, by bisection; 0 for none.

    fits: whether a micro-batch of that size can be computed; once false, false for larger ones.
    """
    sizes = divisors(share)
    fitting = bisect_left(sizes, True, key=lambda size: not fits(size))
    return sizes[fitting - 1] if fitting else 0


def find_micro_batch(model: GPT, runtime: Runtime, share: int, ranks: Ranks) -> int:
    """The micro-batch for `auto`: on a GPU the largest that fits on each of them.

    Tried by a forward and a backward pass of the model as it is, attention kernel and recomputed
    blocks included, beside memory for the optimizer's state and, as a second micro-batch or DDP's
    buckets find them there, gradients. Raises TrainingError where not even one sequence fits.
    """
    if runtime.device != "cuda":
        return divide(share, AUTO_ON_CPU)

    def fits(size: int) -> bool:
        several = size < share or ranks.size > 1
        return not ranks.any(not can_compute(model, runtime, size, gradients=several))[0]

    found = share if fits(share) else largest_that_fits(share, fits)
    if not found:
        raise TrainingError(
            "train.micro_batch_size: found auto, but one sequence does not fit on the GPU; lower "
            "model.block_size, model.n_layer or model.n_embd"
        )
    return found


def can_compute(model: GPT, runtime: Runtime, size: int, gradients: bool = False) -> bool:
    """Whether the memory suffices for a micro-batch of `size` sequences, with AdamW's state and
    gradients that are there already."""
    state: list[torch.Tensor] = []
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        state += [torch.empty_like(p) for p in trained for _ in range(2)]  # as AdamW's
        if gradients:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        ids = torch.zeros(size, model.config.block_size, dtype=torch.int64, device=runtime.device)
        with runtime.autocast():
            loss = model(ids, ids)[1]
        loss.backward()
    except RuntimeError as error:
        # cuBLAS and the like say it in words alone
        if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):
            return False
        raise
    finally:
        state.clear()
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return True
