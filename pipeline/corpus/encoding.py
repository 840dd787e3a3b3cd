"""Text to ids by as many processes as there are cores, the same for any number of them.

The parent reads, cuts and writes; the others encode. What they get and give back stays in order,
and only so many jobs are under way, so memory does not depend on the corpus. (Threads would not do:
tiktoken holds Python's lock for part of its work, and two are slower than one.)
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.corpus.readers import PIECE_CHARACTERS, Piece
from pipeline.corpus.splits import SPLITS
from pipeline.corpus.token_file import id_dtype
from pipeline.corpus.tokenizers import Tokenizer, from_json, utf8_length
from pipeline.errors import CorpusError
from pipeline.processes import available_cores

JOBS_PER_WORKER = 3  # under way: one in work, others waiting, so that none idles
BYTES_PER_WORKER = 1 << 25  # `auto`: text that pays for a process' start, about a second


class Job(NamedTuple):
    """Pieces of one split, in order."""

    split: str
    pieces: list[Piece]


class Encoded(NamedTuple):
    """A job's ids, and where its documents end."""

    split: str
    ids: npt.NDArray[np.integer[Any]]  # of the token file's type
    lengths: list[int]  # of each piece, tokens
    ends: list[bool]  # whether the piece ends its document
    bytes: int  # of UTF-8


def jobs(pieces: Iterable[tuple[str, Piece]], size: int = PIECE_CHARACTERS) -> Iterator[Job]:
    """Small pieces together, about `size` characters a job, each split in its own order."""
    waiting: dict[str, list[Piece]] = {split: [] for split in SPLITS}
    characters = dict.fromkeys(SPLITS, 0)
    for split, piece in pieces:
        waiting[split].append(piece)
        characters[split] += len(piece.text)
        if characters[split] >= size:
            yield Job(split, waiting[split])
            waiting[split], characters[split] = [], 0
    for split, rest in waiting.items():
        if rest:
            yield Job(split, rest)


def encode_job(tokenizer: Tokenizer, job: Job, end_documents: bool) -> Encoded:
    """Encode a job; end_documents: with <|endoftext|> after each document."""
    parts, lengths = [], []
    for piece in job.pieces:
        ids = tokenizer.encode(piece.text)
        parts.append(ids)
        lengths.append(len(ids))
        if piece.ends_document and end_documents:
            parts.append(np.array([tokenizer.eot_id]))
            lengths[-1] += 1
    return Encoded(
        job.split,
        np.concatenate(parts).astype(id_dtype(tokenizer.vocab_size)),
        lengths,
        [piece.ends_document for piece in job.pieces],
        sum(utf8_length(piece.text) for piece in job.pieces),
    )


def worker_count(setting: int | str, text_bytes: int) -> int:
    """Processes for log.workers; `auto`: one for each core, fewer for little text."""
    if isinstance(setting, int):
        return setting
    return max(1, min(available_cores(), text_bytes // BYTES_PER_WORKER))


def encoded(
    tokenizer: Tokenizer, work: Iterable[Job], end_documents: bool, workers: int
) -> Iterator[Encoded]:
    """Every job's result, in the jobs' order; with one worker in this process."""
    if workers == 1:
        for job in work:
            yield encode_job(tokenizer, job, end_documents)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # a fork copies locks that threads hold
        initializer=_start_worker,
        initargs=(tokenizer.to_json(), end_documents),
    )
    pending: deque[Future[Encoded]] = deque()
    try:
        for job in work:
            pending.append(pool.submit(_encode, job))
            if len(pending) >= JOBS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise CorpusError(
            f"log.workers: one of {workers} processes ended by itself; was the memory full? "
            "allowed: fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_state: tuple[Tokenizer, bool]  # of a worker process, set once when it starts


def _start_worker(definition: dict[str, Any], end_documents: bool) -> None:
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _state = (from_json(definition), end_documents)


def _end_with_parent() -> None:
    # a killed parent would leave its workers waiting for ever
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _encode(job: Job) -> Encoded:
    tokenizer, end_documents = _state
    return encode_job(tokenizer, job, end_documents)
