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

A .pt file is a list of 1-D int32 tensors for `torch.load(path, weights_only=True)`, one for each
document with the <|endoftext|> behind it; what the header says stands in the meta.json beside it.
`sha256` is the same for both formats: that of the .bin ids.

A large split is several .bin files, train-00000.bin, train-00001.bin, ..., of at most
`prepare.shard_tokens` ids each, read as one stream: `shards` in meta.json has each one's count and
hash, and the split's hash is that of its shards' hashes.
"""

import hashlib
import io
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.corpus.token_stream import ShardedTokens, Tokens, TokenStream
from pipeline.errors import TokenFileError
from pipeline.storage import read_json

MAGIC = b"TRACEGPT"
VERSION = 1
AGAIN = "run `dvc repro prepare`"
HEADER = struct.Struct("<8sIIQQ32s32s32x")


@dataclass(frozen=True)
class TokenFile:
    """A file's or a split's ids, and whose they are."""

    path: Path  # of a split in several files, the first
    tokens: TokenStream  # (count,); a read-only memory map for .bin
    vocab_size: int
    tokenizer_sha256: str
    sha256: str  # of the ids, as stated: `verify_tokens` compares


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smaller of 2 and 4 bytes an id that hold the vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def check_range(ids: npt.NDArray[Any], path: Path, vocab_size: int) -> npt.NDArray[Any]:
    """The ids; raises TokenFileError for one outside the vocabulary."""
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        found = ids.min() if ids.min() < 0 else ids.max()
        raise TokenFileError(f"{path}: found id {found}; allowed: 0 to {vocab_size - 1}")
    return ids


def read_tokens(path: Path, *, tokenizer_sha256: str | None = None) -> TokenFile:
    """Open a token file; raises TokenFileError if it is missing, cut short, or foreign.

    Foreign is one that another tokenizer than `tokenizer_sha256` made.
    """
    try:
        found = _read_tensors(path) if path.suffix == ".pt" else _map_tokens(path)
    except FileNotFoundError as error:
        raise TokenFileError(f"{error.filename or path}: not found; {AGAIN}") from None
    if tokenizer_sha256 is not None and found.tokenizer_sha256 != tokenizer_sha256:
        raise TokenFileError(
            f"{path}: made by the tokenizer {found.tokenizer_sha256[:12]}; "
            f"allowed: {tokenizer_sha256[:12]}; {AGAIN}"
        )
    return found


def verify_tokens(path: Path) -> None:
    """Read every id; raises TokenFileError if one was changed or is outside the vocabulary."""
    _verified(read_tokens(path))


def _verified(file: TokenFile) -> TokenFile:
    digest = hashlib.sha256()
    for start in range(0, len(file.tokens), 1 << 20):
        piece = check_range(file.tokens[start : start + (1 << 20)], file.path, file.vocab_size)
        digest.update(piece.astype(id_dtype(file.vocab_size)).tobytes())
    if digest.hexdigest() != file.sha256:
        found = digest.hexdigest()
        raise TokenFileError(f"{file.path}: found sha256 {found}; it states {file.sha256}; {AGAIN}")
    return file


def load_split(folder: Path, split: str) -> TokenFile:
    """Open a split of what prepare wrote: its .bin or .pt file, or its shards, as meta.json says.

    Every id is read once. Raises TokenFileError where one was changed, and where the tokens,
    tokenizer.json and meta.json are of different runs.
    """
    meta = read_meta(folder)
    stated, suffix = meta["splits"][split], meta["format"]
    shards = stated.get("shards")
    if not shards:
        return _of_this_run(folder / f"{split}.{suffix}", stated, meta)
    paths = [folder / f"{shard_name(split, n)}.{suffix}" for n in range(len(shards))]
    files = [_of_this_run(path, shard, meta) for path, shard in zip(paths, shards, strict=True)]
    tokens = ShardedTokens([cast(Tokens, file.tokens) for file in files])
    first = files[0]
    return TokenFile(paths[0], tokens, first.vocab_size, first.tokenizer_sha256, stated["sha256"])


def _of_this_run(path: Path, stated: dict[str, Any], meta: dict[str, Any]) -> TokenFile:
    file = read_tokens(path, tokenizer_sha256=meta["tokenizer"]["sha256"])
    if (len(file.tokens), file.sha256) != (stated["tokens"], stated["sha256"]):
        raise TokenFileError(f"{path}: of another run than meta.json; {AGAIN}")
    return _verified(file)


def shard_name(split: str, number: int) -> str:
    """A shard's file name, without the suffix."""
    return f"{split}-{number:05d}"


def read_meta(folder: Path) -> dict[str, Any]:
    """meta.json, once its tokenizer is the one in tokenizer.json; raises TokenFileError."""
    meta, tokenizer = (
        read_json(folder / name, TokenFileError, AGAIN) for name in ("meta.json", "tokenizer.json")
    )
    try:
        found, stated = str(tokenizer["sha256"]), str(meta["tokenizer"]["sha256"])
        _ = meta["format"], [split["sha256"] for split in meta["splits"].values()]
    except (AttributeError, KeyError, TypeError):
        raise TokenFileError(f"{folder}: meta.json or tokenizer.json is not prepare's") from None
    if found != stated:
        raise TokenFileError(
            f"{folder / 'tokenizer.json'}: found sha256 {found[:12]}; meta.json states "
            f"{stated[:12]}; {AGAIN}"
        )
    assert isinstance(meta, dict)
    return meta


def _map_tokens(path: Path) -> TokenFile:
    with path.open("rb") as file:
        header = file.read(HEADER.size)
        size = file.seek(0, io.SEEK_END)
    if len(header) < HEADER.size or header[:8] != MAGIC:
        raise TokenFileError(f"{path}: not a token file of this pipeline; {AGAIN}")
    _, version, itemsize, count, vocab_size, tokenizer, digest = HEADER.unpack(header)
    if version != VERSION or itemsize not in (2, 4):
        raise TokenFileError(f"{path}: token file version {version}; allowed: {VERSION}")
    expected = HEADER.size + count * itemsize
    if size != expected:
        raise TokenFileError(f"{path}: found {size:,} bytes; expected {expected:,}: cut short?")
    dtype = np.dtype(f"<u{itemsize}")
    tokens: npt.NDArray[Any] = np.empty(0, dtype)  # an empty file region cannot be mapped
    if count:
        tokens = np.memmap(path, dtype, mode="r", offset=HEADER.size, shape=(count,))
    return TokenFile(path, tokens, vocab_size, tokenizer.hex(), digest.hex())


def _read_tensors(path: Path) -> TokenFile:
    import torch

    meta = read_meta(path.parent)
    try:
        value = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        raise TokenFileError(f"{path}: cut short or not token lists; {AGAIN}") from None
    stated = meta["splits"].get(path.stem)
    if stated is None:
        raise TokenFileError(f"{path}: found no split of this name in meta.json; {AGAIN}")
    try:
        ids = np.concatenate([np.empty(0, np.int32), *(tensor.numpy() for tensor in value)])
    except (AttributeError, TypeError, ValueError):
        raise TokenFileError(f"{path}: not token lists of prepare; {AGAIN}") from None
    if len(ids) != stated["tokens"]:
        raise TokenFileError(f"{path}: found {len(ids):,} ids; expected {stated['tokens']:,}")
    tokenizer = meta["tokenizer"]
    return TokenFile(path, ids, tokenizer["vocab_size"], tokenizer["sha256"], stated["sha256"])
