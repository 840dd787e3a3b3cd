"""A whole project of the smallest size, in a git and DVC repository of its own."""

import random
import shutil
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import processes
from pipeline.reporting.benchmark import benchmark_section
from pipeline.reporting.readme import fill
from pipeline.reporting.sweep_table import as_section

ROOT = Path(__file__).parent.parent
COPIED = (
    "dvc.yaml", "params.yaml", ".dvcignore", ".gitattributes", ".gitignore", "README.md",
    ".dvc/config", ".dvc/.gitignore",
)  # fmt: skip
TINY = {
    "prepare.tokenizer": "byte",
    "prepare.val_fraction": 0.1,
    "prepare.test_fraction": 0.1,
    "model.n_layer": 1,
    "model.n_head": 2,
    "model.n_embd": 16,
    "model.block_size": 16,
    "train.max_steps": 20,
    "train.micro_batch_size": 4,
    "train.warmup_steps": 2,
    "train.precision": "fp32",
    "train.threads": 1,
    "train.eval_interval": 5,
    "train.eval_batches": 2,
    "train.log_interval": 1,
    "train.sample_interval": 10,
    "train.sample_tokens": 8,
    "sample.max_new_tokens": 8,
    "report.dpi": 50,
}


# where files may have a few bytes: of bytecode Python would keep the part that it could write
SMALL_FILES = {"PYTHONDONTWRITEBYTECODE": "1"}


def environment(**changes: str) -> dict[str, str]:
    """The process environment with this Python first, and without what a DVC run sets."""
    inherited = processes.environment()
    kept = {name: value for name, value in inherited.items() if not name.startswith("DVC_")}
    people = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Tester"), ("EMAIL", "tester@example.org"))
    }
    return {**kept, **people, **changes}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the project; with `check` its failure fails the test, output shown."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def set_params(folder: Path, **changes: object) -> None:
    """Set keys as `train__lr=0.1`."""
    yaml = YAML()
    path = folder / "params.yaml"
    values = yaml.load(path)
    for name, value in changes.items():
        section, key = name.split("__")
        assert key in values[section], name
        values[section][key] = value
    yaml.dump(values, path)


def words(count: int, seed: int = 1) -> str:
    """Text with something to learn in it."""
    drawn = random.Random(seed).choices(["the", "king", "and", "queen", "of", "night,"], k=count)
    return "\n".join(" ".join(drawn[i : i + 8]) for i in range(0, count, 8))


def make_project(folder: Path, **changes: object) -> Path:
    """The shipped code with tiny settings and a text of its own, committed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    # with what is compiled, but not what another process is just writing
    ignored = shutil.ignore_patterns("*.pyc.*")
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=ignored)
    (folder / "reports/sweeps").mkdir(parents=True)
    shutil.copy(ROOT / "reports/sweeps/README.md", folder / "reports/sweeps")
    # the sweeps and benchmarks that the README shows are not this project's
    nothing_yet = {"SWEEP": as_section([]), "BENCHMARKS": benchmark_section([])}
    readme = folder / "README.md"
    readme.write_bytes(fill(readme.read_bytes(), nothing_yet))
    for name in ("own", "init", "tokenizer"):
        (folder / "data" / name).mkdir(parents=True)
    for name in ("init", "tokenizer"):
        shutil.copy(ROOT / "data" / name / "README.md", folder / "data" / name)
    (folder / "data" / "own" / "words.txt").write_text(words(1500), encoding="utf-8")
    set_params(folder, **{key.replace(".", "__"): value for key, value in TINY.items()})
    set_params(folder, **changes)
    run(folder, "git", "init", "-q", "-b", "main")
    commit(folder)
    return folder


def commit(folder: Path, message: str = "State") -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "--allow-empty", "-m", message)
