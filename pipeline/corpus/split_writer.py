"""Writes a split of any size: one token file, or shards of at most so many ids each."""

import hashlib
import io
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.corpus.token_file import HEADER, MAGIC, VERSION, check_range, id_dtype, shard_name
from pipeline.corpus.token_stream import document_bounds
from pipeline.corpus.tokenizers import Tokenizer
from pipeline.storage import atomic_writer, sha256_json, write_bytes


class SplitWriter:
    """A split's ids as they come; used in a `with` block, which leaves whole files or none.

    shard_tokens: ids in a .bin file, at most. A .pt file is always one, made in memory.
    """

    def __init__(
        self, folder: Path, split: str, suffix: str, tokenizer: Tokenizer, shard_tokens: int
    ) -> None:
        self._folder, self._split, self._suffix = folder, split, suffix
        self._tokenizer = tokenizer
        self._shard_tokens = shard_tokens
        self._stack = ExitStack()
        self._writer: BinWriter | None = None
        self._done: list[dict[str, Any]] = []
        self._in_memory: list[npt.NDArray[Any]] = []

    def __enter__(self) -> "SplitWriter":
        if self._suffix == "bin":
            self._open(self._split)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def append(self, ids: npt.NDArray[Any]) -> None:
        """Add ids; raises TokenFileError for one outside the vocabulary."""
        if self._writer is None:
            self._in_memory.append(ids)
            return
        while len(ids):
            if self._writer.count == self._shard_tokens:
                self._next()
            room = self._shard_tokens - self._writer.count
            self._writer.append(ids[:room])
            ids = ids[room:]

    def finish(self) -> dict[str, Any]:
        """Complete the files; meta.json's tokens, sha256, and where there are several, shards."""
        tokenizer = self._tokenizer
        if self._writer is None:
            path = self._folder / f"{self._split}.pt"
            return write_tensors(path, self._in_memory, tokenizer.vocab_size, tokenizer.eot_id)
        self._close()
        if len(self._done) == 1:
            return self._done[0]
        return {
            "tokens": sum(shard["tokens"] for shard in self._done),
            "sha256": sha256_json([shard["sha256"] for shard in self._done]),
            "shards": self._done,
        }

    def _open(self, name: str) -> None:
        path = self._folder / f"{name}.bin"
        file = self._stack.enter_context(atomic_writer(path))
        tokenizer = self._tokenizer
        self._writer = BinWriter(file, path, tokenizer.vocab_size, tokenizer.sha256)

    def _close(self) -> None:
        assert self._writer is not None
        self._done.append(self._writer.finish())
        self._stack.close()

    def _next(self) -> None:
        self._close()
        if len(self._done) == 1:  # the first of several
            first = self._folder / f"{self._split}.bin"
            os.replace(first, self._folder / f"{shard_name(self._split, 0)}.bin")
        self._open(shard_name(self._split, len(self._done)))


class BinWriter:
    """Writes a .bin file's ids as they come, and at the end the header before them."""

    def __init__(self, file: BinaryIO, path: Path, vocab_size: int, tokenizer_sha256: str) -> None:
        self._file, self._path, self._vocab_size = file, path, vocab_size
        self._tokenizer = bytes.fromhex(tokenizer_sha256)
        self._dtype = id_dtype(vocab_size)
        self._digest = hashlib.sha256()
        self.count = 0
        file.write(bytes(HEADER.size))

    def append(self, ids: npt.NDArray[Any]) -> None:
        """Add ids; raises TokenFileError for one outside the vocabulary."""
        data = check_range(ids, self._path, self._vocab_size).astype(self._dtype, copy=False).data
        self._file.write(data)
        self._digest.update(data)
        self.count += len(ids)

    def finish(self) -> dict[str, Any]:
        """Write the header; how many ids there are, and their sha256."""
        digest = self._digest.digest()
        itemsize = self._dtype.itemsize
        header = (MAGIC, VERSION, itemsize, self.count, self._vocab_size, self._tokenizer, digest)
        self._file.seek(0)
        self._file.write(HEADER.pack(*header))
        return {"tokens": self.count, "sha256": digest.hex()}


def write_tensors(
    path: Path, pieces: Iterable[npt.NDArray[Any]], vocab_size: int, eot_id: int
) -> dict[str, Any]:
    """Write ids to a .pt file, a tensor for each document, which ends with eot_id.

    Raises TokenFileError for an id outside the vocabulary.
    """
    import torch

    dtype = id_dtype(vocab_size)
    arrays = [check_range(piece, path, vocab_size).astype(dtype) for piece in pieces]
    ids = np.concatenate([np.empty(0, dtype), *arrays])
    bounds = document_bounds(ids, eot_id)
    # views of one tensor: torch.save writes the ids once, and each document as a place in them
    documents = torch.split(torch.from_numpy(ids.astype(np.int32)), np.diff(bounds).tolist())
    buffer = io.BytesIO()  # torch.save writes a path's name into the file; a buffer has none
    torch.save(list(documents), buffer)
    write_bytes(path, buffer.getvalue())
    return {"tokens": len(ids), "sha256": hashlib.sha256(ids.tobytes()).hexdigest()}
