"""AdamW, and Muon for the hidden matrices.

Weight decay is decoupled and acts on matrices only. `train.lr` is AdamW's rate; Muon's is
`train.muon_lr_ratio` times it, that of untied embeddings `train.embedding_lr_ratio` times: a row
meets few tokens (as in nanochat, Karpathy 2025).
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.params import TrainParams
from pipeline.training.adamw import AdamW, CompiledAdamW, Copies, add_param_group
from pipeline.training.sharding import sharded_as, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95  # Muon's
TABLES = ("wte.", "values.")  # looked up by ids


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
        group = self.param_groups[0]
        lr, weight_decay = group["lr"], group["weight_decay"]
        for (rows, cols), parameters in self.alike.items():
            updates = []
            for parameter, count in parameters:
                assert parameter.grad is not None
                buffer = self.state[parameter]["momentum_buffer"]
                buffer.lerp_(parameter.grad, 1 - MOMENTUM)
                nesterov = whole(parameter.grad.lerp(buffer, MOMENTUM))
                updates.append(nesterov.view(count, rows, cols))
            scale = lr * math.sqrt(max(1, rows / cols))
            orthogonal = orthogonalise(torch.cat(updates), self.dtype)
            counts = [count for _, count in parameters]
            for (parameter, _), update in zip(
                parameters, torch.split(orthogonal, counts), strict=True
            ):
                parameter.mul_(1 - lr * weight_decay)
                update = sharded_as(update.reshape(parameter.shape), parameter)
                parameter.add_(update, alpha=-scale)


def build_optimizers(
    model: nn.Module, params: TrainParams, copies: Copies | None, muon_dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """AdamW over everything, or Muon over the blocks' matrices and AdamW over the rest.

    copies: of the parameters that have one, for a compiled AdamW; None for torch's. Each group
    carries `lr_ratio`, its rate over `train.lr`. Order: AdamW, then Muon.
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
    optimizers: list[torch.optim.Optimizer] = [
        AdamW(groups, lr, betas, fused=True)
        if copies is None
        else CompiledAdamW(groups, lr, betas, copies)
    ]
    if hidden:
        muon = Muon(hidden, lr * params.muon_lr_ratio, decay, muon_dtype)
        muon.param_groups[0]["lr_ratio"] = params.muon_lr_ratio
        optimizers.append(muon)
    return optimizers


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    """Set every group's rate to its multiple of `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_ratio"]
