"""bench: what this machine can do, how much of it training reaches, and how that compares.

Each measurement is a process of its own. With `--peer` nanoGPT's train.py runs on the same work in
turn with ours (A B A B), so that a machine that drifts, drifts for both. The record is measured
once and says when, where and from which commit; no stage reads it.
"""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from pipeline.benchmarking.workloads import QUALITY, SPEED, Quality, Speed, merged
from pipeline.errors import BenchmarkError
from pipeline.params import load_params
from pipeline.paths import BENCHMARKS, CACHE, README
from pipeline.processes import available_cores, environment, sigterm_as_ctrl_c
from pipeline.reporting.benchmark import PEER
from pipeline.storage import read_json, write_json
from pipeline.training.runtime import cpu_name

ON = {"cpu": ("char", "10m", "124m"), "cuda": ("124m-1024",)}
WORKLOADS = ", ".join([*SPEED, *QUALITY])
FP32 = {"cpu": ("10m", "124m"), "cuda": ()}  # measured in full fp32 too
FREE = {"cpu": ("10m",), "cuda": ("124m-1024",)}  # without the promise of the same bytes too
FREELY = "ours, not deterministic"


def bench(
    workload: list[str] = typer.Option(
        [], "--workload", "-w", help=f"{WORKLOADS}; all of the device's if none."
    ),
    peer: Path | None = typer.Option(None, help="A checkout of nanoGPT to compare with."),
    text: Path | None = typer.Option(
        None, help="tinyshakespeare's input.txt; fetched if not given."
    ),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    repeats: int = typer.Option(3, min=1, help="Rounds of ours and the peer's in turn."),
    threads: int = typer.Option(0, min=0, help="CPU threads of both; 0 for every core."),
    name: str = typer.Option("", help="Of a further machine: its record becomes DEVICE-NAME."),
    write: bool = typer.Option(True, help="Write the record, its page and the README's section."),
    draw: bool = typer.Option(
        False, "--draw", help="Measure nothing; write pages and README from the records."
    ),
    check: bool = typer.Option(
        False, "--check", help="Measure nothing; fail if page or README differ from the records."
    ),
) -> None:
    """Measure this machine's limits and the speed of training, alone or beside nanoGPT's.

    Example: python -m pipeline bench --peer ../nanoGPT -w 10m
    """
    from pipeline.benchmarking.peer import check_peer
    from pipeline.reporting.benchmark import benchmark_rows
    from pipeline.reporting.markdown import table

    load_params()
    if check and draw:
        raise BenchmarkError("--check: found --draw too; allowed: one of them")
    if check or draw:
        asked = [workload and "--workload", peer and "--peer", text and "--text", name and "--name"]
        if others := list(filter(None, asked)):
            found = "--check" if check else "--draw"
            raise BenchmarkError(f"{found}: found {others[0]} too; allowed: nothing to measure")
        show_records(check)
        return
    if device not in ON:
        raise BenchmarkError(f"--device: found {device}; allowed: {', '.join(ON)}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BenchmarkError("--device: found cuda, but torch sees no GPU; allowed here: cpu")
    if not re.fullmatch("[a-z0-9-]*", name):
        raise BenchmarkError(f"--name: found {name!r}; allowed: small letters, digits and -")
    chosen = workload or [*ON[device], *(QUALITY if device == "cpu" else ())]
    for one in chosen:
        if one not in SPEED and one not in QUALITY:
            raise BenchmarkError(f"--workload: found {one}; allowed: {WORKLOADS}")
    if peer:
        check_peer(peer)
    if text is not None and not text.is_file():
        raise BenchmarkError(f"{text}: --text: not found; allowed: a text file")
    cores = available_cores()
    if threads > cores:
        raise BenchmarkError(f"--threads: found {threads}; allowed: 0 to {cores}")
    console = Console()
    threads = threads or cores
    record = _machine(device, threads, peer)
    path = BENCHMARKS / f"{'-'.join(filter(None, (device, name)))}.json"
    if write and (lost := _lost(path, record, chosen, repeats)):
        write = False
        console.print(f"not to be written: {path} holds {lost} too; --name NAME writes beside it")
    console.print(f"limits of {record['machine']['cpu']}, {threads} threads")
    with tempfile.TemporaryDirectory() as folder, _kept(record, CACHE / path.name):
        work = _Work(Path(folder), peer, text, device, threads, repeats, console)
        limits = record["limits"] = work.limits()
        console.print(", ".join(f"{k.replace('_', ' ')} {v:,.0f}" for k, v in limits.items()))
        for one in chosen:
            kind, measure = ("speed", work.speed) if one in SPEED else ("quality", work.quality)
            record[kind][one] = measure(one)
            record["corpus_sha256"] = work.corpus_sha256
    heads, rows = benchmark_rows(record)
    console.print(table(heads, rows), markup=False, highlight=False, soft_wrap=True)
    if write:
        write_json(path, record)
        show_records(check=False)
        console.print(f"wrote {path.as_posix()}, its page and the section BENCHMARKS")


@contextmanager
def _kept(record: dict[str, Any], path: Path) -> Iterator[None]:
    """Where measuring fails or is stopped, by SIGTERM too, what there is is written to `path`."""
    try:
        with sigterm_as_ctrl_c():  # which stops the process that is being measured with it
            yield
    except BaseException:
        if record["speed"] or record["quality"]:
            write_json(path, record)
            print(f"{path}: what was measured until then", file=sys.stderr)
        raise


def _read(path: Path) -> Any:
    remedy = "allowed: as bench wrote it"
    record = read_json(path, BenchmarkError, remedy)
    for part in ("machine", "limits", "speed", "quality"):
        if not isinstance(record.get(part), dict):
            raise BenchmarkError(f"{path}: found no {part}; {remedy}")
    return record


def _lost(path: Path, new: dict[str, Any], chosen: list[str], repeats: int) -> str:
    """What a record holds that a new one of these workloads would not."""
    if not path.is_file():
        return ""
    record = _read(path)
    lost = [one for one in (*record["speed"], *record["quality"]) if one not in chosen]
    beside = [one["tokens_per_second"] for one in record["speed"].values()]
    if any(PEER in rates for rates in beside) and not new["peer_commit"]:
        lost.append(PEER)
    for part in ("gpu", "cpu"):
        other = record["machine"].get(part)
        if other != new["machine"].get(part):
            lost.append(f"the figures of {other}")
            break
    rounds = max((len(rates["ours"]) for rates in beside), default=0)
    if rounds > repeats:
        lost.append(f"{rounds} rounds")
    return ", ".join(lost)


def show_records(check: bool) -> None:
    """Write the records' pages and the README's section from them, or compare."""
    from pipeline.reporting.benchmark import benchmark_page, benchmark_section
    from pipeline.reporting.written import write_or_compare

    paths = [path for device in ON for path in sorted(BENCHMARKS.glob(f"{device}*.json"))]
    records = [_read(path) for path in paths]
    pages = {
        path.with_suffix(".md"): benchmark_page(record).encode()
        for path, record in zip(paths, records, strict=True)
    }
    section = {"BENCHMARKS": benchmark_section(records)}
    write_or_compare(
        pages,
        [],
        section,
        check,
        "the benchmarks' records say; run `python -m pipeline bench --draw`",
        required=bool(records),
    )
    if check:
        print(f"{README} and {BENCHMARKS}/ are what the benchmarks' records say")


def _machine(device: str, threads: int, peer: Path | None) -> dict[str, Any]:
    """What a measurement depends on, and the command; nothing measured yet."""
    from importlib.metadata import version

    facts = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
    if device == "cuda":
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            gpus = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
        except OSError:  # no nvidia-smi: the first measurement says whether there is a GPU
            gpus = []
        facts["gpu"] = gpus[0] if gpus else "unknown"
    return {
        "command": " ".join(["python -m pipeline", *map(_without_folders, sys.argv[1:])]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(Path()),
        "device": device,
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "machine": facts,
        "peer_commit": _commit(peer) if peer else "",
        "speed": {},
        "quality": {},
    }


def _commit(folder: Path) -> str:
    """The commit of what is in a folder, with -dirty where files differ from it."""
    from pipeline.reporting.revisions import git

    def asked(*words: str) -> str:
        return git("-C", str(folder), *words, check=False).decode().strip()

    head = asked("rev-parse", "HEAD")
    if not head or (folder != Path() and asked("rev-parse", "--show-prefix")):
        return "unknown"  # nanoGPT's files in a folder of another repository, ours most likely
    return f"{head}-dirty" if asked("status", "--porcelain") else head


def _without_folders(argument: str) -> str:
    """A record says which file was used, and not where it lay."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def _child(module: str, arguments: list[str], asked: dict[str, Any] | None) -> dict[str, Any]:
    """What a measuring process of ours prints."""
    command = [sys.executable, "-m", f"pipeline.benchmarking.{module}", *arguments]
    given = None if asked is None else json.dumps(asked)
    run = subprocess.run(command, input=given, capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise BenchmarkError(f"{module}: ended with {run.returncode}: {last}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def make_tokens(project: Path, tokenizer: str, text: Path | None) -> None:
    """tinyshakespeare by `fetch` and `prepare`: the last tenth is val, as in nanoGPT.

    project: a new folder, which gets params.yaml and data/tokens; text: the corpus, fetched where
    it is None. Called from the repository's top folder. Raises BenchmarkError where a stage fails.
    """
    from ruamel.yaml import YAML

    own = "data/own"
    (project / own).mkdir(parents=True)
    if text is not None:
        shutil.copy(text, project / own)
    settings = merged(
        load_params().model_dump(),
        {
            "corpus": {
                "name": "tinyshakespeare",
                "path": own,
                "pattern": "**/*",
                "errors": "strict",
            },
            "prepare": {
                "tokenizer": tokenizer,
                "format": "bin",
                "split_by": "stream",
                "val_fraction": 0.1,
                "test_fraction": 0.0,
            },
        },
    )
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(settings, file)
    paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    # DVC_ROOT: the project's own cache has the tokenizers that were fetched once
    code = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "DVC_ROOT": str(Path.cwd())}
    for stage in ("fetch", "prepare"):
        run = subprocess.run(
            [sys.executable, "-m", "pipeline", stage],
            cwd=project,
            env={**environment(), **code},
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise BenchmarkError(f"{stage}: {run.stderr.strip()}")


@dataclass
class _Work:
    """The workloads, on tokens that are made once, in a folder that is removed at the end."""

    folder: Path
    peer: Path | None
    text: Path | None
    device: str
    threads: int
    repeats: int
    console: Console
    corpus_sha256: str = ""

    def tokens(self, tokenizer: str) -> Path:
        from pipeline.corpus.token_file import read_meta

        project = self.folder / tokenizer
        data = project / "data" / "tokens"
        if not data.is_dir():
            make_tokens(project, tokenizer, self.text)
            self.corpus_sha256 = read_meta(data)["corpus"]["sha256"]
        return data

    def ours(
        self,
        tokenizer: str,
        settings: dict[str, Any],
        steps: int | None = None,
        deterministic: bool = True,
    ) -> dict[str, Any]:
        settings = merged({"train": {"threads": self.threads}}, settings)  # unless it sets them
        settings = merged(settings, {"train": {"device": self.device}})
        asked = {
            "data": str(self.tokens(tokenizer)),
            "settings": settings,
            "steps": steps,
            "deterministic": deterministic,
        }
        return _child("ours", [], asked)

    def theirs(self, tokenizer: str, flags: dict[str, Any]) -> dict[str, Any]:
        from pipeline.benchmarking import peer

        assert self.peer is not None
        folder = self.folder / f"nanogpt-{tokenizer}"
        if not folder.is_dir():
            peer.lay_out(self.peer, self.tokens(tokenizer), folder)
        return peer.train(folder, flags, self.device, self.threads)

    def limits(self) -> dict[str, Any]:
        """What this machine can do at the moment."""
        return _child("limits", [self.device, str(self.threads)], None)

    def speed(self, name: str) -> dict[str, Any]:
        """Tokens per second of each repeat: the limit's, ours and the peer's in turn."""
        workload: Speed = SPEED[name]
        ways: dict[str, dict[str, Any]] = {"ours": {}}
        if name in FP32[self.device]:
            ways["ours, fp32"] = {"precision": "fp32"}
        if name == "char":  # `auto` finds that so short a recipe does not pay for compiling
            ways["ours, compiled"] = {"compile": "on"}
        if name in FREE[self.device]:
            ways[FREELY] = {}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        facts: dict[str, Any] = {}
        limits: list[float] = []  # in turn with the rest: a machine's clock drifts too
        steps = workload.warm_up + workload.steps
        for _ in range(self.repeats):
            found = self.limits().items()
            limits.append(max(rate for what, rate in found if what.endswith("gflops")))
            self.console.print(f"{name}, limit: {limits[-1]:,.0f} GFLOP/s")
            for way, train in ways.items():
                settings = merged(workload.settings(), {"train": train})
                run = self.ours(workload.tokenizer, settings, steps, deterministic=way != FREELY)
                typical = statistics.median(run["seconds"][workload.warm_up :])
                rates[way].append(run["tokens_per_step"] / typical)
                facts[way] = {"runtime": run["runtime"], "peak_memory_mb": run["peak_memory_mb"]}
                self._tell(name, way, rates[way][-1])
            if self.peer:
                theirs = self.theirs(workload.tokenizer, workload.nanogpt())
                typical = statistics.median(theirs["seconds"][workload.warm_up :])
                tokens = workload.micro_batch_size * workload.block_size
                rates.setdefault(PEER, []).append(tokens / typical)
                self._tell(name, PEER, rates[PEER][-1])
        return {
            "shape": {k: getattr(workload, k) for k in ("n_layer", "n_head", "n_embd")},
            "block_size": workload.block_size,
            "micro_batch_size": workload.micro_batch_size,
            "parameters": run["parameters"],
            "flops_per_token": run["flops_per_token"],
            "limit_gflops": limits,
            "tokens_per_second": rates,
            "ways": facts,
        }

    def quality(self, name: str) -> dict[str, Any]:
        """Whole runs: the val loss that each seed reaches, in how many seconds."""
        workload: Quality = QUALITY[name]
        runs = []
        theirs = []
        for seed in workload.seeds:
            settings = merged(workload.settings, {"train": {"seed": seed}})
            run = self.ours(workload.tokenizer, settings)
            runs.append(
                {
                    "seed": seed,
                    "val_loss": run["val_loss"],
                    "seconds": sum(run["seconds"]),
                    "processor_seconds": run["processor_seconds"],
                    "steps": len(run["seconds"]),
                    "tokens": len(run["seconds"]) * run["tokens_per_step"],
                    "parameters": run["parameters"],
                    "runtime": run["runtime"],
                }
            )
            self.console.print(
                f"{name}, seed {seed}: val loss {run['val_loss']:.4f} "
                f"in {runs[-1]['seconds']:.1f} s, {run['processor_seconds']:.1f} processor s"
            )
            if self.peer and workload.nanogpt:
                theirs.append(self._nanogpt_quality(workload))
                self.console.print(
                    f"{name}, {PEER}: val loss {theirs[-1]['val_loss']:.4f} "
                    f"in {theirs[-1]['seconds']:.1f} s"
                )
        return {"target": workload.target, "ours": runs, "nanogpt": theirs}

    def _nanogpt_quality(self, workload: Quality) -> dict[str, Any]:
        run = self.theirs(workload.tokenizer, workload.nanogpt)
        typical = statistics.median(run["seconds"])  # in place of the iterations with a look at val
        iterations = int(workload.nanogpt["max_iters"])
        seconds = sum(run["seconds"]) + typical * (iterations - len(run["seconds"]))
        return {"seconds": seconds, **_child("peer", [run["checkpoint"], run["val_tokens"]], None)}

    def _tell(self, name: str, way: str, rate: float) -> None:
        self.console.print(f"{name}, {way}: {rate:,.0f} tokens/s")
