"""A whole step of one process on a CPU, compiled as one graph.

Forward pass, loss, backward pass, clipping and the optimizers' updates are traced together and
given to torch's inductor, so that no Python, neither autograd's nor the checks before each
compiled function, stands between their kernels: a sixth of a small model's step. In bf16 the
blocks compute with copies of their matrices, which the update renews, so that autocast casts
neither them nor their gradients (Micikevicius et al. 2018, section 3.1: master weights): of a
large model's step memory is what is slow.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.model.gpt import GPT
from pipeline.training.optimizer import AdamW, Muon
from pipeline.training.runtime import Runtime


class CompiledStep:
    """What forward and backward passes, clipping and each optimizer's step() do, in place.

    It holds on to the tensors of the weights and of the optimizers' states: where others have been
    loaded in their place, make a new one. grad_clip: the largest norm, 0 for no clipping.
    """

    def __init__(
        self, model: GPT, optimizers: list[AdamW | Muon], runtime: Runtime, grad_clip: float
    ) -> None:
        self.model, self.optimizers, self.runtime = model, optimizers, runtime
        self.grad_clip = grad_clip
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.copies: dict[nn.Parameter, Tensor] = {}
        if runtime.precision != "fp32":
            matrices = [p for p in model.h.parameters() if p.dim() == 2 and p.requires_grad]
            self.copies = {matrix: matrix.detach().to(runtime.dtype) for matrix in matrices}
        held = [*model.parameters(), *model.buffers(), *self.copies.values()]
        states = [state for optimizer in optimizers for state in optimizer.state.values()]
        held += [tensor for state in states for name, tensor in state.items() if name != "step"]
        self.held = {tensor: tensor.detach() for tensor in held}
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step from ids and targets, (B, T) each; returns its loss, in nats per token, and the
        norm of all gradients before they were clipped.

        The first compiles it. Raises torch's BackendCompilerFailed where that fails.
        """
        rates = [torch.tensor(optimizer.advance()) for optimizer in self.optimizers]
        inputs = (*self.held.values(), x, y, *rates)
        if self._compiled is None:
            self._compiled = _compile(self._step, inputs)
        with torch.no_grad():
            loss, norm = self._compiled(*inputs)
        return loss, norm

    @torch.no_grad()
    def _step(self, *inputs: Tensor) -> list[Tensor]:
        count = len(self.held)
        now = dict(zip(self.held, inputs[:count], strict=True))
        x, y, *rates = inputs[count:]
        leaves = {p: now[self.copies.get(p, p)].detach().requires_grad_() for p in self.trained}
        given = {name: leaves.get(p, now[p]) for name, p in self.model.named_parameters()}
        given |= {name: now[buffer] for name, buffer in self.model.named_buffers()}
        with torch.enable_grad():
            with self.runtime.autocast():
                _, loss = functional_call(self.model, given, (x, y))  # tied ones too
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        norm = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum().sqrt()
        clip = (self.grad_clip / (norm + 1e-6)).clamp(max=1.0) if self.grad_clip else 1.0
        clipped = {p: g.float() * clip for p, g in zip(leaves, gradients, strict=True)}
        for optimizer, numbers in zip(self.optimizers, rates, strict=True):
            optimizer.update(clipped, numbers.unbind(), lambda tensor: now[tensor])
        for weight, copied in self.copies.items():
            now[copied].copy_(now[weight])
        return [loss.detach(), norm]


def _compile(function: Callable[..., list[Tensor]], inputs: tuple[Tensor, ...]) -> Any:
    """The function for tensors of these shapes, without dynamo's look at them before each call."""
    from unittest import mock  # all of this is loaded where it is needed alone

    from torch import _inductor
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # the inductor's cache asks for a ShapeEnv, though no shape is a symbol
    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    shapes: list[Any] = [mode.from_tensor(tensor) for tensor in inputs]
    # as torch.compile and torch.export have it: the model asks
    with mode, mock.patch("torch.compiler._is_compiling_flag", True):
        graph = make_fx(function)(*shapes)
    try:
        return _inductor.compile(graph, shapes)
    except BackendCompilerFailed:
        raise
    except Exception as error:  # as of a kernel in the cache that was cut short
        raise BackendCompilerFailed(_inductor.compile, error, None) from error
