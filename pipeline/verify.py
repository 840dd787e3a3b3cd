"""Command verify: is every result in the tree what its inputs make?"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UserError
from pipeline.params import load_params
from pipeline.paths import CHECKPOINTS, METRICS, RAW, RUN, TOKENS
from pipeline.processes import environment

COMPARED = (
    "README.md",
    "dvc.lock",
    "reports",
    "data/checkpoints",
    "data/evaluation",
    "data/tokens",
)

# relative, of loss and bits per byte, where the numeric platform differs: ten times the spread
# that the order of fp32 sums makes in evaluating, far below what another seed makes in training
SAME_WEIGHTS_TOLERANCE = 1e-4
RETRAINED_TOLERANCE = 2e-2


def verify(
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Clone HEAD, run everything there, and compare.")
    ] = False,
) -> None:
    """Check every result in the tree; 1 where one is not what its inputs make.

    README against reports, reports and data against dvc.lock, code and parameters against
    dvc.lock and the last commit, token files and checkpoints against their own checksums, and
    the evaluation of best.pt computed again. With --rerun, training too.

    Example: python -m pipeline verify --rerun
    """
    wrong: list[str] = []
    checks = (
        ("dvc.lock: code, parameters, data, results", _against_the_lock),
        ("README and reports are what the results say", _against_the_results),
        ("code, parameters and results are committed", _against_the_commit),
        ("best.pt evaluated again", _evaluated_again),  # first to need torch: it prepares for it
        ("corpus, tokens and checkpoints are whole", _files_are_whole),
    )
    for title, check in checks:
        try:
            problems = check()
        except Exception as error:  # what cannot be checked is not whole
            problems = [str(error) if isinstance(error, UserError) else repr(error)]
        print(f"{'WRONG' if problems else 'ok   '} {title}")
        for problem in problems:
            print(f"      {problem}")
        wrong += problems
    if rerun and not wrong:
        print("running everything again in a clone of HEAD, this takes as long as the first time")
        said, problems = _run_again()
        print(f"{'WRONG' if problems else 'ok   '} {said}")
        for problem in problems:
            print(f"      {problem}")
        wrong += problems
    if wrong:
        print(f"error: {len(wrong)} wrong, first: {wrong[0]}", file=sys.stderr)
        raise typer.Exit(1)
    print("every result is what its inputs make")


def _against_the_lock() -> list[str]:
    from pipeline.reporting.lineage import check_dep, check_params
    from pipeline.reporting.revisions import WorkingTree, read_lock

    tree, problems = WorkingTree(), []
    for stage, entry in read_lock(tree).items():
        for each in (*entry.get("deps", []), *entry.get("outs", [])):
            if problem := check_dep(tree, each):
                problems.append(f"{each['path']}: {problem} (stage {stage})")
        for file, locked in entry.get("params", {}).items():
            for key, problem in check_params(tree, file, locked).items():
                problems.append(f"{file}: {key} {problem} (stage {stage})")
    return list(dict.fromkeys(problems))


def _against_the_results() -> list[str]:
    checks = (("report", "--check"), ("sweep", "table", "--check"), ("bench", "--check"))
    return [line for check in checks for line in _command_fails(*check)]


def _command_fails(*arguments: str) -> list[str]:
    from pipeline.__main__ import main

    said = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(said):
        status = main(list(arguments))
    lines = [line.removeprefix("error: ") for line in said.getvalue().splitlines()]
    return [] if status == 0 else lines[-1:] or [f"{arguments[0]} failed"]


def _against_the_commit() -> list[str]:
    from pipeline.reporting.revisions import WorkingTree, git, read_lock
    from pipeline.reporting.stages import CODE

    paths = ["params.yaml", "dvc.yaml", "dvc.lock", "README.md", "reports"]
    for entry in read_lock(WorkingTree()).values():
        paths += [dep["path"] for dep in entry.get("deps", []) if dep["path"].endswith(CODE)]
    if not git("rev-parse", "--verify", "--quiet", "HEAD", check=False):
        return ["there is no commit: `git add -A; git commit`"]
    changed = git("status", "--porcelain", "-z", "--", *sorted(set(paths))).decode().split("\0")
    return [f"{line[3:]}: differs from the last commit" for line in changed if line]


def _files_are_whole() -> list[str]:
    from pipeline.corpus.readers import open_corpus
    from pipeline.corpus.token_file import verify_tokens
    from pipeline.training.checkpoint import read_checkpoint

    problems = []
    token_files = sorted([*TOKENS.glob("*.bin"), *TOKENS.glob("*.pt")])
    checks: list[tuple[Callable[[Path], object], Path]] = [(open_corpus, RAW)]
    checks += [(verify_tokens, path) for path in token_files]
    checks += [(read_checkpoint, path) for path in sorted(CHECKPOINTS.glob("*.pt"))]
    for check, path in checks:
        try:
            check(path)
        except UserError as error:
            problems.append(str(error))
    return problems


def _evaluated_again() -> list[str]:
    from pipeline.training import runtime

    params = load_params()
    runtime.prepare_process(params.train)
    from pipeline.evaluation.metrics import compute

    again = compute(params).metrics
    written = json.loads(METRICS.read_text(encoding="utf-8"))
    tolerance = 0.0 if _same_platform() else SAME_WEIGHTS_TOLERANCE
    return [f"{METRICS}: {line}" for line in _differing(written, again, tolerance)]


def _same_platform() -> bool:
    """Whether this machine evaluates as that of the last training did."""
    from pipeline.training import runtime

    facts = json.loads(RUN.read_text(encoding="utf-8"))
    params = load_params()
    chosen = runtime.choose(params.train, params.model.block_size, facts["flops"])
    then, now = facts["runtime"], chosen.fingerprint()
    if then.get("processes", 1) > 1:  # which shared the threads
        del now["threads"]
    return all(then.get(name) == value for name, value in now.items())


def _differing(one: Any, other: Any, tolerance: float, name: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        lines = []
        for key in sorted({*one, *other}):
            inner = f"{name}.{key}" if name else key
            lines += _differing(one.get(key), other.get(key), tolerance, inner)
        return lines
    numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
    if one == other or (numbers and math.isclose(one, other, rel_tol=tolerance)):
        return []
    return [f"{name} is {one!r}, computed again {other!r}"]


def _run_again() -> tuple[str, list[str]]:
    """What was shown, and what differs, from a clone of HEAD run from the start."""
    from pipeline.reporting.revisions import git
    from pipeline.sweeps.queue import untracked

    with tempfile.TemporaryDirectory(prefix="tracegpt-") as folder:
        clone = Path(folder) / "clone"
        top = git("rev-parse", "--show-toplevel").decode().strip()
        git("clone", "--quiet", "--no-hardlinks", top, str(clone))
        for path in untracked([load_params().corpus.path, "data/init"]):  # text outside of git
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            if Path(path).is_dir():
                shutil.copytree(path, clone / path, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, clone / path)
        command = [sys.executable, "-m", "dvc", "repro", "--force"]
        done = subprocess.run(command, cwd=clone, env=environment())
        if done.returncode:
            return "dvc repro in the clone failed", [f"dvc repro exited with {done.returncode}"]
        here, there = (json.loads((root / RUN).read_text("utf-8")) for root in (Path(), clone))
        if here["runtime"] == there["runtime"]:
            ours, theirs = _contents(Path()), _contents(clone)
            names = sorted({*ours, *theirs})
            wrong = [f"{n}: differs" for n in names if ours.get(n) != theirs.get(n)]
            return f"identical bytes: {len(names)} files, made again on the same platform", wrong
        written = json.loads(METRICS.read_text(encoding="utf-8"))
        again = json.loads((clone / METRICS).read_text(encoding="utf-8"))
        held_out = [name for name in ("val", "test") if name in written]
        ours, theirs = ({name: values[name] for name in held_out} for values in (written, again))
        wrong = [f"{METRICS}: {line}" for line in _differing(ours, theirs, RETRAINED_TOLERANCE)]
        return (
            f"another platform: metrics within {RETRAINED_TOLERANCE:.0%}, bytes not compared",
            wrong,
        )


def _contents(root: Path) -> dict[str, bytes]:
    files = []
    for name in COMPARED:
        path = root / name
        files += [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in files
        if "benchmarks" not in file.parts
    }
