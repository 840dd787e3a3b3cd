"""Token lists from elsewhere: a .pt file with a list of 1-D integer tensors, one a document.

Many courses save their corpora so: `torch.save([torch.tensor(encode(text)) for text in texts])`. A
single 1-D tensor is one document. The file is foreign: only tensors and lists are read from it, no
code (`weights_only=True`). It holds ids and no text; `prepare.tokenizer` says whose they are.
"""

import warnings
from pathlib import Path

import numpy as np

from pipeline.corpus.tokenizers import Ids, Tokenizer
from pipeline.errors import CorpusError

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
        kind = tensor.dtype
        if tensor.numel() == 0:  # torch.tensor([]) is of floats
            continue
        if tensor.dim() != 1 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
            raise CorpusError(
                f"{path}: [{place}]: found a {tensor.dim()}-D tensor of {kind}; {_ALLOWED}"
            )
    return [tensor.flatten().numpy().astype(np.int64) for tensor in tensors]


def check_ids(documents: list[Ids], path: Path, tokenizer: Tokenizer) -> None:
    """Raise CorpusError where an id is not one of the tokenizer's."""
    vocab_size = tokenizer.vocab_size
    used = np.array([len(tokenizer.token_bytes(n)) > 0 for n in range(vocab_size)])
    used[tokenizer.eot_id] = True
    for place, ids in enumerate(documents):
        foreign = ids[(ids < 0) | (ids >= vocab_size)]
        if not len(foreign):
            foreign = ids[~used[ids]]
        if len(foreign):
            unused = "" if used.all() else f", but {np.count_nonzero(~used)} that have no text"
            raise CorpusError(
                f"{path}: [{place}]: found id {foreign[0]}; allowed: 0 to {vocab_size - 1}{unused} "
                f"(prepare.tokenizer: {tokenizer.kind})"
            )
