"""A Dask cluster of two worker processes writes the bytes that one machine writes.

A real scheduler and real workers, started as a user starts them, on free ports of this machine.
"""

import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tiny_project import environment, make_project, run, set_params, words

from pipeline.corpus.encoding import Job, encode_job
from pipeline.corpus.new_tokenizers import byte_tokenizer, train_bpe
from pipeline.corpus.readers import Piece
from pipeline.errors import CorpusError

pytest.importorskip("distributed", reason="distributed is missing: make test-all")
from pipeline.corpus.cluster import encoded_by_cluster


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    options = {"cwd": tmp_path, "env": environment(PYTHONPATH=str(Path(__file__).parent.parent))}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    processes = [
        subprocess.Popen(
            [*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
    ]
    assert processes[0].stderr is not None
    address = next(line.split()[-1] for line in processes[0].stderr if "Scheduler at:" in line)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
    for _ in range(2):
        processes.append(
            subprocess.Popen(
                [*worker, "--nthreads", "1", "--no-nanny"], stderr=subprocess.DEVNULL, **options
            )
        )
    yield address
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    processes[0].stderr.close()


def started(program: str) -> list[psutil.Process]:
    """The processes of a test's cluster that run a program of distributed.cli."""
    children = psutil.Process().children()
    return [child for child in children if f"distributed.cli.{program}" in child.cmdline()]


def digests(project: Path) -> dict[str, str]:
    files = sorted((project / "data/tokens").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
@pytest.mark.parametrize("split_by", ["stream", "document"])
def test_a_cluster_of_two_workers_writes_the_bytes_of_one_machine(
    tmp_path: Path, scheduler: str, split_by: str
) -> None:
    project = make_project(tmp_path / "p", prepare__tokenizer="bpe", prepare__split_by=split_by)
    for number in range(40):
        text = words(20_000, seed=number)
        (project / f"data/own/{number}.txt").write_text(text, encoding="utf-8")
    run(project, "dvc", "repro", "-q", "prepare")
    alone = digests(project)
    assert len(alone) == 6
    set_params(project, log__scheduler=scheduler)
    by_cluster = run(project, "python", "-m", "pipeline", "prepare")
    assert scheduler in by_cluster.stdout
    assert digests(project) == alone


@pytest.mark.slow
def test_no_scheduler_there_is_one_line(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", log__scheduler="tcp://127.0.0.1:1")
    run(project, "dvc", "repro", "-q", "fetch")
    refused = run(project, "python", "-m", "pipeline", "prepare", check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: log.scheduler: found tcp://127.0.0.1:1, where")
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_runs_on_one_cluster_keep_their_own_tokenizers(scheduler: str) -> None:
    jobs = [Job("train", [Piece(words(500, seed=seed), True)]) for seed in range(20)]
    tokenizers = [train_bpe([words(5000)], size) for size in (262, 280)]
    runs = [encoded_by_cluster(each, jobs, True, scheduler) for each in tokenizers]
    for job, *both in zip(jobs, *runs, strict=True):
        for tokenizer, encoded in zip(tokenizers, both, strict=True):
            assert np.array_equal(encoded.ids, encode_job(tokenizer, job, True).ids)


@pytest.mark.slow
def test_a_scheduler_lost_at_work_is_one_line(scheduler: str) -> None:
    jobs = [Job("train", [Piece(words(500), True)])] * 200
    results = encoded_by_cluster(byte_tokenizer(), jobs, True, scheduler)
    next(results)
    for process in started("dask_scheduler"):
        process.kill()
    with pytest.raises(CorpusError, match=rf"^log\.scheduler: {scheduler} was lost at work[^\n]*$"):
        list(results)


@pytest.mark.slow
def test_workers_lost_at_work_are_one_line(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.corpus.cluster.CONNECT_SECONDS", 3)
    jobs = [Job("train", [Piece(words(500), True)])] * 200
    results = encoded_by_cluster(byte_tokenizer(), jobs, True, scheduler)
    next(results)
    for process in started("dask_worker"):
        process.kill()
    with pytest.raises(CorpusError, match=rf"^log\.scheduler: {scheduler} was lost at work[^\n]*$"):
        list(results)


@pytest.mark.slow
def test_what_is_no_scheduler_is_one_line(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.corpus.cluster.CONNECT_SECONDS", 2)
    worker = started("dask_worker")[0]
    ports: list[int] = []
    while not ports:  # it is starting
        ports = [c.laddr.port for c in worker.net_connections() if c.status == "LISTEN"]
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler
    ) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        for port in (ports[0], page.server_port):
            with pytest.raises(CorpusError, match=rf":{port}, where no Dask scheduler answers"):
                next(encoded_by_cluster(byte_tokenizer(), [], True, f"tcp://127.0.0.1:{port}"))
        page.shutdown()


def test_the_brackets_of_an_ipv6_address_are_not_its_hosts() -> None:
    # refused, or no IPv6 here: either is said of the address, not of an unknown name
    with pytest.raises(CorpusError, match=r"\[::1\]:1, where no .* answers \(\[Errno [0-9]"):
        next(encoded_by_cluster(byte_tokenizer(), [], True, "tcp://[::1]:1"))
