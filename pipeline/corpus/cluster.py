"""Text to ids on many machines, by a Dask cluster; see encoding.py for the work itself.

This process reads, cuts and writes as it does alone, and the cluster's workers encode the same
jobs, which come back in their order: the bytes are those of one machine. Only so many jobs are
under way. The workers need this project installed at the same versions, and no access to the text.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, get_worker
from distributed.comm import CommClosedError

from pipeline.corpus.encoding import JOBS_PER_WORKER, Encoded, Job, encode_job
from pipeline.corpus.tokenizers import Tokenizer, from_json
from pipeline.errors import CorpusError

CONNECT_SECONDS = 30


class Encoder(WorkerPlugin):  # type: ignore[misc]
    """The tokenizer on a worker, made once, also on one that joins later.

    Its name is its own: of two runs on one cluster each must meet its own tokenizer.
    """

    def __init__(self, definition: dict[str, Any], end_documents: bool) -> None:
        self.name = f"{definition['sha256']}-{end_documents}"
        self.definition, self.end_documents = definition, end_documents

    def setup(self, worker: Worker) -> None:
        self.tokenizer = from_json(self.definition)


def encoded_by_cluster(
    tokenizer: Tokenizer, work: Iterable[Job], end_documents: bool, scheduler: str
) -> Iterator[Encoded]:
    """Every job's result, in the jobs' order; raises CorpusError where no cluster answers."""
    host, _, port = scheduler.rpartition("//")[2].rpartition(":")
    try:  # a client that finds nothing waits long and leaves its threads behind
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:  # a name that can be no host's is the second
        raise CorpusError(
            f"log.scheduler: found {scheduler}, where no Dask scheduler answers ({error}); "
            "allowed: its address, or null"
        ) from None
    encoder = Encoder(tokenizer.to_json(), end_documents)
    pending: deque[Future] = deque()
    with _connected(scheduler) as client:
        try:
            client.register_plugin(encoder)
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except Exception as error:  # whatever a worker raises comes as a plain Exception
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CorpusError(
                f"log.scheduler: {scheduler} has no worker that can start ({reason}); allowed: "
                "workers with this project installed at the same versions"
            ) from None
        try:
            for job in work:
                # not pure: equal jobs are different ones
                pending.append(client.submit(encode_on_worker, encoder.name, job, pure=False))
                if len(pending) >= JOBS_PER_WORKER * max(1, sum(client.ncores().values())):
                    yield _result(pending.popleft(), client)
            while pending:
                yield _result(pending.popleft(), client)
        except (KilledWorker, CommClosedError, CancelledError, TimeoutError) as error:
            raise CorpusError(
                f"log.scheduler: {scheduler} was lost at work, or its workers "
                f"({type(error).__name__}); allowed: a cluster that stays, or null"
            ) from None


def _connected(scheduler: str) -> Client:
    """A client; raises CorpusError where what answers is no scheduler.

    In a thread of its own, as at a port of something else the client's timeout is not kept.
    """
    made: list[Client | Exception] = []

    def connect() -> None:
        try:
            made.append(Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False))
        except Exception as error:  # a worker, or another protocol, answers in any way
            made.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(2 * CONNECT_SECONDS)
    if not made or isinstance(made[0], Exception):
        reason = next(iter(str(made[0]).splitlines()), "no reason") if made else "nothing it knows"
        raise CorpusError(
            f"log.scheduler: found {scheduler}, where no Dask scheduler answers ({reason}); "
            "allowed: its address, or null"
        )
    return made[0]


def _result(future: Future, client: Client) -> Encoded:
    """What a job gave; raises TimeoutError where no worker is left to do it."""
    while True:
        try:
            return future.result(timeout=CONNECT_SECONDS)  # type: ignore[no-any-return]
        except (TimeoutError, asyncio.TimeoutError):  # one from Python 3.11 on
            if not client.ncores():
                raise TimeoutError from None


def encode_on_worker(encoder: str, job: Job) -> Encoded:
    """A job on the worker that this runs on, by the Encoder of that name."""
    plugin = get_worker().plugins[encoder]
    return encode_job(plugin.tokenizer, job, plugin.end_documents)
