"""The processes of a run: which one this is, and the little that they tell each other.

torchrun says it in the environment (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); a run of one
process says nothing and needs no process group. What decides the course of a run goes over gloo,
on the CPU, so that a GPU is not waited for.
"""

import ctypes
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import DeviceError
from pipeline.paths import shared_cache
from pipeline.processes import call_at_end_of_parent

if TYPE_CHECKING:
    from torch import Tensor

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
PATIENCE = timedelta(minutes=30)  # the others wait so long while rank 0 writes or samples
T = TypeVar("T")
_HELD: list[object] = []  # locks, until the process ends


def under_torchrun() -> bool:
    """Whether torchrun, or a scheduler that speaks as it does, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def call_at_end_of_starter(call: Callable[[], object]) -> None:
    """Call when dvc or torchrun is killed, which alone leaves this process training beside the
    next one."""
    if under_torchrun():
        call_at_end_of_parent("RANK", "", call)
    elif "DVC_STAGE" in os.environ:
        call_at_end_of_parent("DVC_STAGE", "dvc", call)


def take_gpu(allowed: Sequence[int]) -> int:
    """The GPU, of these, with the fewest of this project's processes, as a sweep's runs are; this
    process counts as one until it ends."""
    import filelock
    import torch

    folder = shared_cache() / "gpus"
    ids = [torch.cuda.get_device_properties(gpu).uuid for gpu in allowed]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in itertools.count():
            for gpu, uuid in zip(allowed, ids, strict=True):
                lock = filelock.FileLock(folder / f"{uuid}-{place}.lock")
                try:
                    lock.acquire(blocking=False)
                except filelock.Timeout:
                    continue
                _HELD.append(lock)
                return gpu
    except OSError:  # a disk that takes no locks
        pass
    return allowed[0]


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; rank 0 alone writes and prints."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> "Ranks":
        """As torchrun started this process; one of one where it did not.

        Raises DeviceError where a scheduler says but a part of it.
        """
        if not under_torchrun():
            return cls()
        missing = [name for name in VARIABLES if name not in os.environ]
        if missing and os.environ["WORLD_SIZE"] != "1":
            raise DeviceError(
                f"{', '.join(missing)}: not set, though WORLD_SIZE is {os.environ['WORLD_SIZE']}; "
                "start the processes by torchrun"
            )
        return cls(*(int(os.environ.get(name, int("SIZE" in name))) for name in VARIABLES))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def start(self, device: str, parallel: str) -> None:
        """Join the others; raises DeviceError where this machine has no device for this process."""
        import torch
        from torch import distributed

        if self.size > 1 and parallel == "none":
            raise DeviceError(
                f"train.parallel: found none, with {self.size} processes; allowed: ddp, fsdp"
            )
        if device == "cuda":
            gpus = torch.cuda.device_count()
            if self.local_rank >= gpus:
                raise DeviceError(
                    f"train.nproc: found {self.local_size} processes on a machine with {gpus} "
                    f"GPUs; allowed: 1 to {gpus}"
                )
            torch.cuda.set_device(take_gpu([self.local_rank] if self.size > 1 else range(gpus)))
        elif device == "mps" and self.size > 1:
            raise DeviceError(f"train.nproc: found {self.size} processes on mps; allowed: 1")
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        if self.size > 1:
            distributed.init_process_group(backend, timeout=PATIENCE)
        elif parallel == "fsdp":  # it needs a group also for one
            store = distributed.HashStore()  # type: ignore[attr-defined]
            distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        if distributed.is_initialized():
            # never taken apart: gloo's destructor holds Python's lock and waits for a thread that
            # waits for that lock, so that a process that has done its work would not end
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(distributed.group.WORLD))

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has it set; all processes wait for each other."""
        if self.size == 1:
            return list(flags)
        import torch
        from torch import distributed

        tensor = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in tensor.tolist()]

    def wait(self) -> None:
        """Go on when all have come here."""
        self.any(False)

    def from_first(self, value: T) -> T:
        """Rank 0's value."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def sum(self, tensor: "Tensor") -> "Tensor":
        """The sum over all processes, each element's in the order of their ranks.

        An all_reduce adds in an order that follows from an element's place among the others.
        """
        if self.size == 1:
            return tensor
        import torch
        from torch import distributed

        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor)
        return torch.stack(parts).sum(0)


ALONE = Ranks()
