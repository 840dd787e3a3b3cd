"""A step is divided evenly, and `auto` finds the largest micro-batch that the memory takes."""

import pytest
import torch

from pipeline.errors import ParamsError, TrainingError
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.training import micro_batch
from pipeline.training.division import divide, divisors, share_of
from pipeline.training.micro_batch import largest_that_fits
from pipeline.training.ranks import ALONE
from pipeline.training.runtime import Runtime

GPU = Runtime("cuda", "fp32", "sdpa", False, 1, "native")
CPU = Runtime("cpu", "fp32", "matmul", False, 1, "native")


def test_every_share_is_even_and_an_uneven_one_lists_what_is() -> None:
    assert [share_of(12, n) for n in (1, 2, 3, 4)] == [12, 6, 4, 3]
    allowed = r"allowed: 1, 2, 3, 4, 6, 12, or a step of a multiple of 5 sequences$"
    with pytest.raises(ParamsError, match=rf"found 5 processes .*{allowed}"):
        share_of(12, 5)


def test_a_share_is_divided_into_micro_batches_of_at_most_the_asked_for_size() -> None:
    assert divide(32, 8) == 8
    assert divide(4, 8) == 4
    assert divide(12, 8) == 6


@pytest.mark.parametrize("share", [1, 7, 12, 32, 480])
def test_the_largest_that_fits_is_found_for_every_limit(share: int) -> None:
    for limit in range(share + 2):
        tried: list[int] = []

        def fits(size: int, limit: int = limit, tried: list[int] = tried) -> bool:
            tried.append(size)
            return size <= limit

        best = max((n for n in divisors(share) if n <= limit), default=0)
        assert largest_that_fits(share, fits) == best
        assert len(tried) <= len(divisors(share)).bit_length()


class Memory(GPT):
    """A model that runs out of GPU memory above so many sequences."""

    takes = 12
    beside: dict[int, bool]  # sequences -> whether gradients were there

    def forward(
        self, idx: torch.Tensor, targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.beside[idx.size(0)] = self.lm_head.weight.grad is not None
        if idx.size(0) > self.takes:
            if idx.size(0) % 2:  # cuBLAS has no class for it
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublas`")
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().forward(idx, targets)


def found(model: GPT, share: int, monkeypatch: pytest.MonkeyPatch) -> int:
    real = micro_batch.can_compute
    monkeypatch.setattr(
        micro_batch,
        "can_compute",
        lambda model, runtime, size, gradients: real(model, CPU, size, gradients),
    )
    model.beside = {}
    return micro_batch.find_micro_batch(model, GPU, share, ALONE)


def test_auto_catches_out_of_memory_and_leaves_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Memory(GPTConfig("modern", 1, 2, 16, 8, 31))
    assert found(model, 48, monkeypatch) == 12
    assert model.beside.pop(48) is False  # a step's only micro-batch finds none
    assert all(model.beside.values())
    assert 12 in model.beside
    assert found(model, 64, monkeypatch) == 8
    assert found(model, 12, monkeypatch) == 12
    assert model.beside == {12: False}
    assert found(model, 45, monkeypatch) == 9
    assert all(parameter.grad is None for parameter in model.parameters())


def test_not_even_one_sequence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Memory(GPTConfig("modern", 1, 2, 16, 8, 31))
    model.takes = 0
    with pytest.raises(TrainingError, match=r"one sequence does not fit .* lower model\."):
        found(model, 48, monkeypatch)


def test_on_a_cpu_auto_does_not_depend_on_the_memory() -> None:
    model = GPT(GPTConfig("modern", 1, 2, 16, 8, 31))
    assert micro_batch.find_micro_batch(model, CPU, 48, ALONE) == 8
    assert micro_batch.find_micro_batch(model, CPU, 6, ALONE) == 6
