"""AdamW, and Muon for the hidden matrices.

Weight decay is decoupled and acts on matrices only. `train.lr` is AdamW's rate; Muon's is
`train.muon_lr_ratio` times it, that of untied embeddings `train.embedding_lr_ratio` times: a row
meets few tokens (as in nanochat, Karpathy 2025).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import unwrap
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pipeline.params import TrainParams
from pipeline.training.sharding import sharded_as, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95  # Muon's
TABLES = ("wte.", "values.")  # looked up by ids

Number: TypeAlias = float | Tensor  # of a step, or what stands for it while one is traced
# torch's own without what would have its compiler loaded, a third of a short run's time
add_param_group = unwrap(torch.optim.Optimizer.add_param_group)


class AdamW(torch.optim.AdamW):
    """torch's, with its state there before the first step, and what a compiled step makes of it.

    Made in that step, it would fill room that the activations have left, and the next step's would
    need more (reports/benchmarks/plan.md).
    """

    add_param_group = add_param_group
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, lr, betas, fused=True)
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            self.state[weight] = {
                "step": torch.zeros((), device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }

    def advance(self) -> list[float]:
        """Count a step; returns its numbers: epsilon, and of each group the rate and what decay
        leaves, the first two with the bias corrections (Kingma and Ba 2015, section 2)."""
        counts = [state["step"] for state in self.state.values()]
        torch._foreach_add_(counts, 1)  # as torch's own step does
        step = float(counts[0])  # all take every step
        beta1, beta2 = self.defaults["betas"]
        root = math.sqrt(1 - beta2**step)
        numbers = [self.defaults["eps"] * root]
        for group in self.param_groups:
            lr = group["lr"]
            numbers += [lr * root / (1 - beta1**step), 1 - lr * group["weight_decay"]]
        return numbers

    def update(
        self,
        gradients: Mapping[nn.Parameter, Tensor],
        numbers: Sequence[Number],
        of: Callable[[Tensor], Tensor],
    ) -> None:
        """A step in place with `advance`'s numbers (Loshchilov and Hutter 2019).

        gradients: of each weight; of: what stands for a weight or its state in a traced graph.
        """
        beta1, beta2 = self.defaults["betas"]
        eps, *rates = numbers
        for group, lr, keep in zip(self.param_groups, rates[::2], rates[1::2], strict=True):
            for weight in group["params"]:
                gradient, state = gradients[weight], self.state[weight]
                mean, square = of(state["exp_avg"]), of(state["exp_avg_sq"])
                mean.lerp_(gradient, 1 - beta1)
                square.lerp_(gradient.square(), 1 - beta2)
                of(weight).mul_(keep).sub_(lr * mean / (square.sqrt() + eps))


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearest semi-orthogonal matrices to (N, rows, cols), about, by Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # spectral norm at most 1
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: torch.optim.Muon's update, computed for equal shapes at once.

    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.) A weight that stacks
    several matrices on its rows, as c_attn does with q, k and v, is given as (weight, count) and
    each is orthogonalised by itself. dtype: what the iteration is computed in. Of matrices that
    FSDP has sharded every process computes the whole update and keeps its part.
    """

    add_param_group = add_param_group

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, int]],
        lr: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        parameters = list(parameters)
        super().__init__([p for p, _ in parameters], {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype
        self.alike: dict[tuple[int, int], list[tuple[nn.Parameter, int]]] = defaultdict(list)
        for parameter, count in parameters:
            rows, cols = parameter.shape
            self.alike[rows // count, cols].append((parameter, count))
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        weights = self.param_groups[0]["params"]
        self.update({weight: weight.grad for weight in weights}, self.advance(), lambda own: own)

    def advance(self) -> list[float]:
        """A step's numbers: the rate, and what decay leaves of a weight."""
        (group,) = self.param_groups
        return [group["lr"], 1 - group["lr"] * group["weight_decay"]]

    def update(
        self,
        gradients: Mapping[nn.Parameter, Tensor],
        numbers: Sequence[Number],
        of: Callable[[Tensor], Tensor],
    ) -> None:
        """As AdamW's."""
        lr, keep = numbers
        for (rows, cols), parameters in self.alike.items():
            updates = []
            for parameter, count in parameters:
                gradient = gradients[parameter]
                buffer = of(self.state[parameter]["momentum_buffer"])
                buffer.lerp_(gradient, 1 - MOMENTUM)
                updates.append(whole(gradient.lerp(buffer, MOMENTUM)).view(count, rows, cols))
            scale = lr * math.sqrt(max(1, rows / cols))
            orthogonal = orthogonalise(torch.cat(updates), self.dtype)
            counts = [count for _, count in parameters]
            for (parameter, _), part in zip(
                parameters, torch.split(orthogonal, counts), strict=True
            ):
                change = sharded_as(part.reshape(parameter.shape), parameter)
                of(parameter).mul_(keep).sub_(change.float() * scale)


def build_optimizers(
    model: nn.Module, params: TrainParams, muon_dtype: torch.dtype
) -> list[AdamW | Muon]:
    """AdamW over everything, or Muon over the blocks' matrices and AdamW over the rest.

    Each group carries `lr_ratio`, its rate over `train.lr`. Order: AdamW, then Muon.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [
        (p, 3 if name.endswith("c_attn.weight") else 1)
        for name, p in named
        if params.optimizer == "muon" and p.dim() == 2 and ".h." in f".{name}"
    ]
    chosen = {id(p) for p, _ in hidden}
    rest = {name: p for name, p in named if id(p) not in chosen}
    untied = "lm_head.weight" in rest  # a tied one is wte.weight
    tables = [name for name in rest if untied and name.startswith(TABLES)]
    embedding = [rest.pop(name) for name in tables]
    matrices = [p for p in rest.values() if p.dim() == 2]
    vectors = [p for p in rest.values() if p.dim() != 2]  # and Canon's, a number a channel and tap
    decay, lr, betas = params.weight_decay, params.lr, (params.beta1, params.beta2)
    groups = [
        {"params": embedding, "weight_decay": decay, "lr_ratio": params.embedding_lr_ratio},
        {"params": matrices, "weight_decay": decay, "lr_ratio": 1.0},
        {"params": vectors, "weight_decay": 0.0, "lr_ratio": 1.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizers: list[AdamW | Muon] = [AdamW(groups, lr, betas)]
    if hidden:
        muon = Muon(hidden, lr * params.muon_lr_ratio, decay, muon_dtype)
        muon.param_groups[0]["lr_ratio"] = params.muon_lr_ratio
        optimizers.append(muon)
    return optimizers


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set every group's rate to its multiple of `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_ratio"]
