"""Token ids on disk, with a header that is checked whenever they are read.

A .bin file is 128 bytes of header and then the ids, little-endian, read through np.memmap:

    bytes  0-7    magic "TRACEGPT"
           8-11   version, uint32: 1
          12-15   bytes of an id, uint32: 2 (uint16) for a vocabulary up to 65,536, else 4 (uint32)
          16-23   count of ids, uint64
          24-31   vocabulary's size, uint64
          32-63   sha256 of the tokenizer
          64-95   sha256 of the ids' bytes
          96-127  zero

A .pt file is a 1-D tensor of int32 for `torch.load(path, weights_only=True)`; what the header says
stands in the meta.json beside it. `sha256` is the same for both formats: that of the .bin ids.
"""

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import TokenFileError
from pipeline.storage import atomic_writer

MAGIC = b"TRACEGPT"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQ32s32s32x")

Tokens = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class TokenFileInfo:
    """What was written."""

    tokens: int
    sha256: str  # of the ids


@dataclass(frozen=True)
class TokenFile:
    """A split's ids, and whose they are."""

    path: Path
    tokens: Tokens  # (count,); a read-only memory map for .bin
    vocab_size: int
    tokenizer_sha256: str
    sha256: str  # of the ids, as stated: `verify_tokens` compares


def write_tokens(
    path: Path, pieces: Iterable[npt.NDArray[Any]], *, vocab_size: int, tokenizer_sha256: str
) -> TokenFileInfo:
    """Write ids as they come to a .bin or .pt file, which appears when all of them are there."""
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    with atomic_writer(path) as file:
        if path.suffix == ".pt":
            return _write_tensor(file, pieces, dtype)
        file.write(bytes(_HEADER.size))
        count, digest = 0, hashlib.sha256()
        for piece in pieces:
            data = piece.astype(dtype).tobytes()
            file.write(data)
            digest.update(data)
            count += len(piece)
        file.seek(0)
        tokenizer = bytes.fromhex(tokenizer_sha256)
        header = (MAGIC, VERSION, dtype.itemsize, count, vocab_size, tokenizer, digest.digest())
        file.write(_HEADER.pack(*header))
    return TokenFileInfo(count, digest.hexdigest())


def read_tokens(path: Path, *, tokenizer_sha256: str | None = None) -> TokenFile:
    """Open a token file; raises TokenFileError if it is missing, cut short, or foreign.

    Foreign is one that another tokenizer than `tokenizer_sha256` made.
    """
    try:
        found = _read_tensor(path) if path.suffix == ".pt" else _map_tokens(path)
    except FileNotFoundError as error:
        raise TokenFileError(f"{error.filename or path}: not found; run prepare first") from None
    if tokenizer_sha256 is not None and found.tokenizer_sha256 != tokenizer_sha256:
        raise TokenFileError(
            f"{path}: made by the tokenizer {found.tokenizer_sha256[:12]}; "
            f"allowed: {tokenizer_sha256[:12]}; run prepare again"
        )
    return found


def verify_tokens(path: Path) -> None:
    """Read every id; raises TokenFileError if one was changed or is outside the vocabulary."""
    file = read_tokens(path)
    dtype = np.dtype("<u2" if file.vocab_size <= 1 << 16 else "<u4")
    digest = hashlib.sha256()
    for start in range(0, len(file.tokens), 1 << 20):
        piece = file.tokens[start : start + (1 << 20)]
        if piece.max() >= file.vocab_size or piece.min() < 0:
            raise TokenFileError(
                f"{path}: found id {piece.max()}; allowed: 0 to {file.vocab_size - 1}"
            )
        digest.update(piece.astype(dtype).tobytes())
    if digest.hexdigest() != file.sha256:
        raise TokenFileError(f"{path}: found sha256 {digest.hexdigest()}; it states {file.sha256}")


def load_split(folder: Path, split: str) -> TokenFile:
    """Open a split of what prepare wrote: train.bin or train.pt, as meta.json says.

    Raises TokenFileError also where the tokens, tokenizer.json and meta.json are of different runs.
    """
    meta = read_meta(folder)
    file = read_tokens(
        folder / f"{split}.{meta['format']}", tokenizer_sha256=meta["tokenizer"]["sha256"]
    )
    stated = meta["splits"][split]
    if (len(file.tokens), file.sha256) != (stated["tokens"], stated["sha256"]):
        raise TokenFileError(f"{file.path}: of another run than meta.json; run prepare again")
    return file


def read_meta(folder: Path) -> dict[str, Any]:
    """meta.json, once its tokenizer is the one in tokenizer.json; raises TokenFileError."""
    meta, tokenizer = (_read_json(folder / name) for name in ("meta.json", "tokenizer.json"))
    try:
        found, stated = tokenizer["sha256"], meta["tokenizer"]["sha256"]
    except (KeyError, TypeError):
        raise TokenFileError(f"{folder}: meta.json or tokenizer.json is not prepare's") from None
    if found != stated:
        raise TokenFileError(
            f"{folder / 'tokenizer.json'}: found sha256 {found[:12]}; meta.json states "
            f"{stated[:12]}; run prepare again"
        )
    assert isinstance(meta, dict)
    return meta


def _map_tokens(path: Path) -> TokenFile:
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        size = file.seek(0, io.SEEK_END)
    if len(header) < _HEADER.size or header[:8] != MAGIC:
        raise TokenFileError(f"{path}: not a token file of this pipeline; run prepare again")
    _, version, itemsize, count, vocab_size, tokenizer, digest = _HEADER.unpack(header)
    if version != VERSION or itemsize not in (2, 4):
        raise TokenFileError(f"{path}: token file version {version}; allowed: {VERSION}")
    expected = _HEADER.size + count * itemsize
    if size != expected:
        raise TokenFileError(f"{path}: found {size:,} bytes; expected {expected:,}: cut short?")
    dtype = np.dtype(f"<u{itemsize}")
    tokens: Tokens = np.empty(0, dtype)  # an empty file region cannot be mapped
    if count:
        tokens = np.memmap(path, dtype, mode="r", offset=_HEADER.size, shape=(count,))
    return TokenFile(path, tokens, vocab_size, tokenizer.hex(), digest.hex())


def _write_tensor(
    file: BinaryIO, pieces: Iterable[npt.NDArray[Any]], dtype: np.dtype[Any]
) -> TokenFileInfo:
    import torch

    ids = np.concatenate([np.empty(0, dtype), *(piece.astype(dtype) for piece in pieces)])
    buffer = io.BytesIO()  # torch.save writes a path's name into the file; a buffer has none
    torch.save(torch.from_numpy(ids.astype(np.int32)), buffer)
    file.write(buffer.getbuffer())
    return TokenFileInfo(len(ids), hashlib.sha256(ids.tobytes()).hexdigest())


def _read_tensor(path: Path) -> TokenFile:
    import torch

    meta = read_meta(path.parent)
    try:
        ids = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        raise TokenFileError(f"{path}: cut short or not a tensor; run prepare again") from None
    stated = meta["splits"][path.stem]
    if not isinstance(ids, torch.Tensor) or ids.shape != (stated["tokens"],):
        found = tuple(ids.shape) if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise TokenFileError(f"{path}: found {found}; expected {stated['tokens']:,} ids in one row")
    tokenizer = meta["tokenizer"]
    return TokenFile(
        path, ids.numpy(), tokenizer["vocab_size"], tokenizer["sha256"], stated["sha256"]
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TokenFileError(f"{path}: not found; run prepare first") from None
    except ValueError:
        raise TokenFileError(f"{path}: not JSON in UTF-8; run prepare again") from None
