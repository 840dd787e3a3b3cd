"""What a GPU is to show beside its speed (which `bench` measures): losses within a number of tokens
and seconds, the same bytes twice and after `kill -9`, and bf16 beside fp32.

Each run is `python -m pipeline train` from its start to its end, compilation included, in a project
of its own on tinyshakespeare in GPT-2's tokens, timed by the clock. Writes gpu.json beside itself
after each part. From the repository root:

    python reports/benchmarks/gpu.py --peer PATH_TO_NANOGPT [--text input.txt] [PART ...]

`--rehearse` takes a tiny model on a CPU through the same parts and writes nothing.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from ruamel.yaml import YAML

from pipeline.bench import make_tokens
from pipeline.benchmarking import peer
from pipeline.corpus.token_file import read_meta
from pipeline.processes import environment
from pipeline.reporting.revisions import git
from pipeline.storage import sha256_file

Settings = dict[str, Any]  # {"section.key": value}
Found = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("gpu.json")
LAST = 100  # steps whose mean loss counts
SEEDS = (1, 2, 3)
# 1,245 steps of 8,192 tokens: 10.2M
GPT2_SIZE: Settings = {
    "model.size": "gpt2",
    "model.block_size": 1024,
    "train.micro_batch_size": 8,
    "train.max_steps": 1245,
    "train.device": "cuda",
    "train.log_interval": 1,
    "train.eval_interval": 1245,
    "train.sample_interval": 0,
}
TINY: Settings = {
    **GPT2_SIZE,
    "model.size": "custom",
    "model.n_layer": 1,
    "model.n_head": 2,
    "model.n_embd": 16,
    "model.block_size": 16,
    "train.max_steps": 60,
    "train.eval_interval": 60,
    "train.device": "cpu",
    "train.threads": 1,
}
MODERN: Settings = {"model.architecture": "modern", "train.optimizer": "muon", "train.lr": 3e-3}
GPT2: Settings = {
    "model.architecture": "gpt2",
    "model.bias": True,
    "train.optimizer": "adamw",
    "train.lr": 6e-4,
}
REGULARISED: Settings = {**MODERN, "model.dropout": 0.2, "train.weight_decay": 0.2}
# its config/train_shakespeare_char.py at GPT-2's size
NANOGPT = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "batch_size": 8}
NANOGPT |= {"dropout": 0.2, "max_iters": 500, "eval_interval": 50, "eval_iters": 20}
TINY_NANOGPT = {**NANOGPT, "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}
TINY_NANOGPT |= {"max_iters": 12, "eval_interval": 6, "eval_iters": 2}


@dataclass
class Bench:
    """A folder of projects, and what all of their runs share."""

    folder: Path
    text: Path | None
    peer: Path | None
    rehearsed: bool

    def project(self, name: str, **changes: Any) -> Path:
        """A folder with the tokens, made once, and params.yaml with these changes."""
        tokens, folder = self.folder / "tokens", self.folder / name
        if not tokens.is_dir():
            make_tokens(tokens, "byte" if self.rehearsed else "gpt2", self.text)
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "tokens").symlink_to(tokens / "data" / "tokens")
        yaml = YAML()
        settings = yaml.load(tokens / "params.yaml")
        for key, value in {**(TINY if self.rehearsed else GPT2_SIZE), **changes}.items():
            section, setting = key.split(".")
            settings[section][setting] = value
        yaml.dump(settings, folder / "params.yaml")
        return folder

    def train(self, folder: Path) -> Found:
        """A run to its end: seconds of its process, and of what it has written."""
        started = time.monotonic()
        subprocess.run(**_training(folder), check=True)
        seconds = time.monotonic() - started
        losses, checkpoints = _losses(folder), folder / "data/checkpoints"
        run = json.loads((checkpoints / "run.json").read_text(encoding="utf-8"))
        return {
            "seconds": seconds,
            "steps": len(losses),
            "mean_loss_last_100": mean(losses[-LAST:]),
            "runtime": run["runtime"],
            "sha256": {name: sha256_file(checkpoints / name) for name in ("best.pt", "last.pt")},
        }

    def seeds(self, name: str, settings: Settings) -> Found:
        """A run for each seed, each compiling anew."""
        runs = []
        for seed in SEEDS:
            project = self.project(f"{name}-{seed}", **settings, **{"train.seed": seed})
            runs.append({"seed": seed, **self.train(project)})
            _tell(name, runs[-1])
        return {"settings": settings, "runs": runs}

    def regularised(self) -> Found:
        """Best val loss beside nanoGPT's, which has its time of the clock first: ours may not take
        longer. Both are scored on all of val by the same code."""
        if self.peer is None:
            raise SystemExit("regularised: needs --peer, a checkout of nanoGPT")
        rounds = []
        for seed in SEEDS:
            project = self.project(f"regularised-{seed}", **self.often_looking(seed))
            folder = self.folder / f"nanogpt-{seed}"
            peer.lay_out(self.peer, project / "data/tokens", folder)
            flags = TINY_NANOGPT if self.rehearsed else NANOGPT
            started = time.monotonic()
            theirs = peer.train(folder, flags, self.device, os.cpu_count() or 1)
            seconds = time.monotonic() - started
            ours = self.train(project)
            best, val = project / "data/checkpoints/best.pt", theirs["val_tokens"]
            ours["val_loss"] = _val_loss(str(best), val)
            beside = {"seconds": seconds, "val_loss": _val_loss(theirs["checkpoint"], val)}
            rounds.append({"seed": seed, "ours": ours, "nanoGPT": beside})
            _tell("regularised", ours)
            _tell("regularised, nanoGPT", beside)
        return {"settings": REGULARISED, "nanoGPT": NANOGPT, "runs": rounds}

    def often_looking(self, seed: int) -> Settings:
        """Settings of a run whose best checkpoint is what counts."""
        steps = {"train.max_steps": 60 if self.rehearsed else 500}
        looks = {"train.eval_interval": 30 if self.rehearsed else 25, "train.eval_batches": 0}
        return {**REGULARISED, **steps, **looks, "train.seed": seed}

    def twice(self) -> Found:
        """Runs of the same settings: the first compiles, the others find it compiled."""
        project, runs = self.project("twice", **MODERN, **self.short()), []
        for _ in SEEDS:
            shutil.rmtree(project / "data/checkpoints", ignore_errors=True)
            runs.append(self.train(project))
        equal = all(run["sha256"] == runs[0]["sha256"] for run in runs)
        _tell("twice", {"runs": len(runs), "equal": equal})
        return {"runs": runs, "equal": equal}

    def killed(self) -> Found:
        """A run killed after a third and two thirds of its steps, and one that is let alone."""
        alone = self.train(self.project("alone", **MODERN, **self.short()))
        often = {"log.save_interval": 0.001 if self.rehearsed else 1}
        project = self.project("killed", **MODERN, **self.short(), **often)
        kills = []  # steps of the newest state when the process was killed
        for share in (1 / 3, 2 / 3):
            process = subprocess.Popen(**_training(project))
            while process.poll() is None:
                saved = project.glob(".cache/train/*/state-*.json")
                step = max((int(path.stem.split("-")[1]) for path in saved), default=0)
                if step >= share * alone["steps"]:
                    process.kill()
                    if process.wait() == -signal.SIGKILL:
                        kills.append(step)
                time.sleep(0.01)
        resumed = self.train(project)
        equal = resumed["sha256"] == alone["sha256"]
        _tell("killed", {"kills": len(kills), "equal": equal})
        return {"alone": alone, "resumed": resumed, "kills": kills, "equal": equal}

    def precision(self) -> Found:
        """The same steps in bf16 and in fp32: how far their losses are apart at most."""
        losses, runs = {}, []
        for precision in ("bf16", "fp32"):
            settings = {**MODERN, **self.short(), "train.precision": precision}
            project = self.project(precision, **settings)
            runs.append(self.train(project))
            losses[precision] = _losses(project)
        pairs = zip(losses["bf16"], losses["fp32"], strict=True)
        apart = max(abs(ours / exact - 1) for ours, exact in pairs)
        _tell("precision", {"apart": apart})
        return {"runs": runs, "losses": losses, "apart": apart}

    def corpus_sha256(self) -> str:
        return str(read_meta(self.folder / "tokens/data/tokens")["corpus"]["sha256"])

    def short(self) -> Settings:
        return {} if self.rehearsed else {"train.max_steps": 200, "train.compile": "on"}

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsed else "cuda"

    def parts(self) -> dict[str, Callable[[], Found]]:
        return {
            "memorised": lambda: self.seeds("memorised", MODERN),
            "memorised-gpt2": lambda: self.seeds("memorised-gpt2", GPT2),
            "regularised": self.regularised,
            "twice": self.twice,
            "killed": self.killed,
            "precision": self.precision,
        }


def _training(folder: Path) -> dict[str, Any]:
    """How subprocess runs this repository's `train` in a project, with a cache of its own."""
    inherited = {key: value for key, value in environment().items() if key != "DVC_ROOT"}
    return {
        "args": [sys.executable, "-m", "pipeline", "train"],
        "cwd": folder,
        "env": {**inherited, "PYTHONPATH": str(ROOT)},
        "stdout": subprocess.DEVNULL,
    }


def _losses(folder: Path) -> list[float]:
    with (folder / "reports/train.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def _val_loss(checkpoint: str, tokens: str) -> float:
    """In a process of its own, which gives the GPU's memory back."""
    command = [sys.executable, "-m", "pipeline.benchmarking.peer", checkpoint, tokens]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["val_loss"])


def _tell(part: str, found: Found) -> None:
    numbers = {k: v for k, v in found.items() if isinstance(v, (int, float))}
    print(f"{part}: " + ", ".join(f"{k} {v:.5g}" for k, v in numbers.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = list(Bench(Path(), None, None, True).parts())
    parser.add_argument("part", nargs="*", help=f"of {', '.join(names)}; all if none")
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument(
        "--text", type=Path, help="tinyshakespeare's input.txt; fetched if not given"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU; writes nothing")
    asked = parser.parse_args()
    if unknown := [part for part in asked.part if part not in names]:
        parser.error(f"found {unknown[0]}; allowed: {', '.join(names)}")
    if asked.peer:
        peer.check_peer(asked.peer)
    record: Found = {}
    if not asked.rehearse and RECORD.is_file():
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), asked.text, asked.peer, asked.rehearse)
        for name in asked.part or names:
            found = bench.parts()[name]()
            if asked.rehearse:
                continue
            record[name] = {
                "command": f"python reports/benchmarks/gpu.py {name}",
                "commit": git("rev-parse", "HEAD").decode().strip(),
                "date": date.today().isoformat(),
                "python": sys.version.split()[0],
                "torch": version("torch"),
                "corpus_sha256": bench.corpus_sha256(),
                **found,
            }
            RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
