"""Tensors and plain values in .pt files, and tensors in .safetensors files, safe to open.

A file may come from anywhere: it is read with `weights_only=True` or as safetensors, so nothing
in it is executed, and whatever is wrong with it is one line. The same values always give the same
bytes.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.storage import atomic_writer, write_bytes

FOREIGN = "not a checkpoint, or it holds more than tensors and plain values"
HEADER = "pipeline"  # the key in a .safetensors file's header that is this project's


def plain_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own, on the CPU: what makes equal values equal bytes.

    A tied weight, which is one tensor under two names, stays one.
    """
    copies: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.detach().to("cpu", copy=True).contiguous()
    return {name: copies[tensor.data_ptr()] for name, tensor in tensors.items()}


def save_tensors(path: Path, payload: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values to a .pt file, atomically."""
    with atomic_writer(path) as file:
        try:
            torch.save(payload, file)
        except RuntimeError as error:  # what torch makes of a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what save_tensors wrote, or another's .pt or .bin; raises CheckpointError."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"  # older files of torch.save are none
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken:
                raise CheckpointError(f"{path}: damaged: the checksum of {broken} does not agree")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; `dvc repro` trains it") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: found a folder; allowed: a file") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint: {error}") from None
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's text says how to execute what is in the file
        raise CheckpointError(f"{path}: refused: {FOREIGN}") from None
    except Exception as error:  # a foreign file can fail in any way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path}: refused: {FOREIGN} ({reason[:200]})") from None
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: found {type(payload).__name__}; allowed: a dict")
    return payload


def save_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors, and beside them plain values, to a .safetensors file, atomically."""
    whole = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    # one key: of several the order in the file, and so its bytes, would not be fixed
    header = {HEADER: json.dumps(metadata, sort_keys=True)} if metadata else {"format": "pt"}
    write_bytes(path, save(whole, metadata=header))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and the plain values that save_safetensors wrote beside them."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
        metadata = json.loads(header.get(HEADER, "{}"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from None
    return tensors, metadata if isinstance(metadata, dict) else {}
