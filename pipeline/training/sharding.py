"""Tensors that FSDP has cut over the processes, and their whole; a plain tensor is its own whole.

Told apart without importing torch.distributed.tensor, which a run of one process has no use for.
"""

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; where it is sharded every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sharded_as(tensor: Tensor, other: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of `other`; all where that is plain."""
    if not hasattr(other, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    # every process has the same whole: nothing needs to be sent
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
