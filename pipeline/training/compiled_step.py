"""A whole step of one process on a CPU, compiled.

Two graphs are traced and given to torch's inductor: forward pass, loss and backward pass; clipping,
the optimizers' updates and what follows from them. So no Python, neither autograd's nor the checks
before each compiled function, stands between their kernels: a sixth of a small model's step. In
bf16 blocks and head compute with copies of their matrices, which the update renews, so that
autocast casts neither them nor their gradients (Micikevicius et al. 2018, section 3.1: master
weights): of a large model's step memory is what is slow.

Where the runtime has its threads apart, each takes its part of the sequences through the first
graph, as one thread compiles it, and the update adds their gradients up: data parallelism within a
process. So none waits for the others after each product, and one computes while another waits for
memory.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.model.gpt import GPT
from pipeline.training.optimizer import AdamW, Muon
from pipeline.training.runtime import INLINED_EXP, Runtime

# kernels of one thread, called without Python's lock, which one thread alone can hold
APART = {"cpp.threads": 1, "cpp_wrapper": True}


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
        named = dict(model.named_parameters(remove_duplicate=False))
        names = {p: name for name, p in named.items()}  # a tied one's is the head's
        self.trained = {name: p for p, name in names.items() if p.requires_grad}
        self.copies: dict[nn.Parameter, Tensor] = {}
        if runtime.precision != "fp32":
            weights = [p for part in (model.h, model.lm_head) for p in part.parameters()]
            matrices = [p for p in weights if p.dim() == 2 and p.requires_grad]
            self.copies = {matrix: matrix.detach().to(runtime.dtype) for matrix in matrices}
        self.read = {name: p.detach() for name, p in named.items()}
        self.read |= {names[p]: copied for p, copied in self.copies.items()}
        self.read |= dict(model.named_buffers(remove_duplicate=False))
        states = [state for optimizer in optimizers for state in optimizer.state.values()]
        moments = [tensor for state in states for name, tensor in state.items() if name != "step"]
        changed = [*self.trained.values(), *self.copies.values(), *moments]
        self.changed = {tensor: tensor.detach() for tensor in changed}
        parts = runtime.threads if runtime.threads_apart else 1
        self._threads = ThreadPoolExecutor(parts, initializer=torch.set_num_threads, initargs=(1,))
        self.parts = parts
        self._passes: Callable[..., list[Tensor]] | None = None
        self._update: Callable[..., list[Tensor]] | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step from ids and targets, (B, T) each; returns its loss, in nats per token, and the
        norm of all gradients before they were clipped.

        Threads that are apart divide B by their number. The first call compiles. Raises torch's
        BackendCompilerFailed where that fails.
        """
        assert len(x) % self.parts == 0
        pairs = zip(x.chunk(self.parts), y.chunk(self.parts), strict=True)
        inputs = [(*self.read.values(), *pair) for pair in pairs]
        if self._passes is None:
            options = APART if self.parts > 1 else {}
            compiled = _compile(self._trace_passes, inputs[0], options)
            self._passes = torch.no_grad()(compiled)  # each thread asks anew
        if self.parts > 1:
            passes = self._passes
            results = list(self._threads.map(lambda given: passes(*given), inputs))
        else:
            results = [self._passes(*inputs[0])]
        rates = [torch.tensor(optimizer.advance()) for optimizer in self.optimizers]
        given = (*self.changed.values(), *rates, *(each for part in results for each in part))
        if self._update is None:
            self._update = _compile(self._trace_update, given, {})
        loss, norm = self._update(*given)
        return loss, norm

    def _trace_passes(self, *inputs: Tensor) -> list[Tensor]:
        """Loss and gradients of what is trained, from what is read, ids and targets."""
        *read, x, y = inputs
        given = dict(zip(self.read, read, strict=True))
        leaves = {name: given[name].detach().requires_grad_() for name in self.trained}
        with torch.enable_grad():
            with self.runtime.autocast():
                _, loss = functional_call(self.model, given | leaves, (x, y), tie_weights=False)
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        return [loss.detach(), *gradients]

    def _trace_update(self, *inputs: Tensor) -> list[Tensor]:
        """The step's loss and norm, from what is changed, the rates, and the results of each part
        one after another."""
        rates_at = len(self.changed)
        results_at = rates_at + len(self.optimizers)
        now = dict(zip(self.changed, inputs[:rates_at], strict=True))
        rates, results = inputs[rates_at:results_at], inputs[results_at:]
        count = 1 + len(self.trained)
        alike = [results[i::count] for i in range(count)]  # of every part
        loss, *gradients = (reduce(torch.add, [r.float() for r in of]) / self.parts for of in alike)
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        clip = (self.grad_clip / (norm + 1e-6)).clamp(max=1.0) if self.grad_clip else 1.0
        clipped = {p: g * clip for p, g in zip(self.trained.values(), gradients, strict=True)}
        for optimizer, numbers in zip(self.optimizers, rates, strict=True):
            optimizer.update(clipped, numbers.unbind(), lambda tensor: now[tensor])
        for weight, copied in self.copies.items():
            now[copied].copy_(now[weight])
        return [loss, norm]


def _compile(
    function: Callable[..., list[Tensor]], inputs: tuple[Tensor, ...], options: dict[str, Any]
) -> Callable[..., list[Tensor]]:
    """The function for tensors of these shapes, without dynamo's look at them before each call.

    options: of torch._inductor.config.
    """
    from unittest import mock  # all of this is loaded where it is needed alone

    from torch import _inductor
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.codegen.cpp import CppVecOverrides
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # the inductor's cache asks for a ShapeEnv, though no shape is a symbol
    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    shapes: list[Any] = [mode.from_tensor(tensor) for tensor in inputs]
    # as torch.compile and torch.export have it: the model asks
    with mode, mock.patch("torch.compiler._is_compiling_flag", True):
        graph = make_fx(function)(*shapes)
    names = ("exp", "sigmoid")
    inlined = {name: _with_inlined_exp(getattr(CppVecOverrides, name)) for name in names}
    try:
        with mock.patch.multiple(CppVecOverrides, **inlined):
            return _inductor.compile(graph, shapes, options)  # type: ignore[no-any-return]
    except BackendCompilerFailed:
        raise
    except Exception as error:  # as of a kernel in the cache that was cut short
        raise BackendCompilerFailed(_inductor.compile, error, None) from error


def _with_inlined_exp(code_of: Callable[[str], str]) -> Any:
    """The inductor's own code of an operation, but for the exponential in it."""
    return staticmethod(lambda x: code_of(x).replace(".exp()", f".{INLINED_EXP}()"))
