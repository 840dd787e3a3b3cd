"""AdamW, and for one process on a CPU a compiled one: there memory is what is slow.

A step under autocast reads or writes a matrix and its gradient seven times beside the products:
casts there and back, norm, clipping, AdamW. Here one compiled function does the last three. The
blocks compute with copies of their matrices, which it renews, so that these are not cast
(Micikevicius et al. 2018, section 3.1: master weights).
"""

import copy
import math
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.gpt import GPT

Copies = dict[nn.Parameter, nn.Parameter]

# torch's own without what would have its compiler loaded, a third of a short run's time
add_param_group = unwrap(torch.optim.Optimizer.add_param_group)


def with_copies(model: GPT, dtype: torch.dtype) -> tuple[GPT, Copies]:
    """A model that computes with `dtype` copies of the blocks' matrices and shares all else.

    Returns it and {parameter of `model`: its copy}. A copy's gradient is of its own dtype: what
    autocast would have computed, before it is cast, as long as one backward pass makes it.
    """
    copies = {
        parameter: nn.Parameter(parameter.detach().to(dtype))
        for parameter in model.h.parameters()
        if parameter.dim() == 2 and parameter.requires_grad
    }
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    replaced = {id(parameter): copied for parameter, copied in copies.items()}
    return copy.deepcopy(model, shared | replaced), copies


class AdamW(torch.optim.AdamW):
    """torch's, with its state there before the first step.

    Made in that step, it would fill room that the activations have left, and the next step's would
    need more (reports/benchmarks/plan.md).
    """

    add_param_group = add_param_group
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], fused: bool
    ) -> None:
        super().__init__(groups, lr, betas, fused=fused)
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            self.state[weight] = {
                "step": torch.zeros((), device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }


class CompiledAdamW(AdamW):
    """AdamW and the clipping before it, in one compiled function.

    A parameter that has a copy takes the copy's gradient, and the copy follows its new value. The
    state is torch's own: exp_avg, exp_avg_sq and step of each parameter.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], copies: Copies
    ) -> None:
        super().__init__(groups, lr, betas, fused=False)
        self.copies = copies
        self._compiled = torch.compile(_update, dynamic=False)

    @torch.no_grad()
    def step(self, grad_clip: float) -> Tensor:  # type: ignore[override]
        """Update all parameters; returns the norm of all gradients before they were clipped.

        grad_clip: the largest norm, 0 for no clipping.
        """
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for weight in weights:
            self.state[weight]["step"] += 1
        step = float(self.state[weights[0]]["step"])  # they all take every step
        beta1, beta2 = self.defaults["betas"]
        root = math.sqrt(1 - beta2**step)
        sizes, keeps = [], []
        for group in self.param_groups:  # tensors: a number that changes would be compiled anew
            count = len(group["params"])
            sizes += [torch.tensor(group["lr"] * root / (1 - beta1**step))] * count
            keeps += [torch.tensor(1 - group["lr"] * group["weight_decay"])] * count
        return self._compiled(
            weights,
            [self.copies.get(weight, weight).grad for weight in weights],
            [self.state[weight]["exp_avg"] for weight in weights],
            [self.state[weight]["exp_avg_sq"] for weight in weights],
            [self.copies.get(weight) for weight in weights],
            sizes,
            keeps,
            torch.tensor(self.defaults["eps"] * root),
            beta1,
            beta2,
            grad_clip,
        )

    @torch.no_grad()
    def renew_copies(self) -> None:
        """Let the copies follow weights that were changed by other means."""
        for weight, copied in self.copies.items():
            copied.copy_(weight)


def _update(
    weights: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    copies: list[Tensor | None],
    sizes: list[Tensor],
    keeps: list[Tensor],
    eps: Tensor,
    beta1: float,
    beta2: float,
    grad_clip: float,
) -> Tensor:
    """AdamW (Loshchilov and Hutter 2019) in place, with the bias corrections in `sizes` and `eps`
    as in Kingma and Ba 2015, section 2."""
    norm = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum().sqrt()
    clip = (grad_clip / (norm + 1e-6)).clamp(max=1.0) if grad_clip else 1.0
    for weight, gradient, mean, square, copied, size, keep in zip(
        weights, gradients, means, squares, copies, sizes, keeps, strict=True
    ):
        gradient = gradient.float() * clip
        mean.lerp_(gradient, 1 - beta1)
        square.lerp_(gradient.square(), 1 - beta2)
        weight.mul_(keep).sub_(size * mean / (square.sqrt() + eps))
        if copied is not None:
            copied.copy_(weight)
    return norm
