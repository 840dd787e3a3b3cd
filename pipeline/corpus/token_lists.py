"""Token lists from elsewhere: a .pt file with a list of 1-D integer tensors, one a document.

Many courses save their corpora so: `torch.save([torch.tensor(encode(text)) for text in texts])`. A
single 1-D tensor is one document. The file is foreign: only tensors and lists are read from it, no
code (`weights_only=True`). It holds ids and no text; `prepare.tokenizer` says whose they are.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorpusError

Ids = NDArray[np.int64]

_ALLOWED = "allowed: a list of 1-D integer tensors, saved by torch.save"


def read_token_lists(path: Path) -> list[Ids]:
    """Each document's ids; raises CorpusError where the file holds anything else."""
    import torch

    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of a foreign file; the error says it all
        try:
            value = torch.load(file, weights_only=True, map_location="cpu")
        except Exception:  # what is no such file can fail in any way
            raise CorpusError(f"{path}: not a file of tensors, or cut short; {_ALLOWED}") from None
    tensors = [value] if isinstance(value, torch.Tensor) else value
    if not isinstance(tensors, list | tuple):
        raise CorpusError(f"{path}: found {type(value).__name__}; {_ALLOWED}")
    for place, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor):
            raise CorpusError(f"{path}: [{place}]: found {type(tensor).__name__}; {_ALLOWED}")
        if tensor.layout != torch.strided:
            raise CorpusError(f"{path}: [{place}]: found a sparse tensor; {_ALLOWED}")
        kind = tensor.dtype
        if tensor.numel() == 0:  # torch.tensor([]) is of floats
            continue
        if tensor.dim() != 1 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
            raise CorpusError(
                f"{path}: [{place}]: found a {tensor.dim()}-D tensor of {kind}; {_ALLOWED}"
            )
    return [tensor.flatten().numpy().astype(np.int64) for tensor in tensors]
