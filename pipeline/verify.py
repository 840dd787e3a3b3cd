"""Command verify: is every result in the tree what its inputs make?"""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import CheckpointError, CorpusError, TokenFileError, UserError
from pipeline.params import load_params
from pipeline.paths import (
    BENCHMARKS,
    BEST,
    CHECKPOINTS,
    EVALUATION,
    EVALUATION_RUN,
    HISTORY,
    LAST,
    MANIFEST,
    META,
    METRICS,
    POSITIONS,
    RAW,
    README,
    REPORTS,
    RUN,
    SAMPLES_ON_THE_WAY,
    STATISTICS,
    SWEEPS,
    TOKENIZER,
    TOKENS,
)
from pipeline.processes import environment
from pipeline.storage import read_json, sha256_file

COMPARED = (README, Path("dvc.lock"), REPORTS, CHECKPOINTS, EVALUATION, TOKENS)

# relative, of loss and bits per byte, where the numeric platform differs: ten times the spread
# that the order of fp32 sums makes in evaluating, far below what another seed makes in training
SAME_WEIGHTS_TOLERANCE = 1e-4
RETRAINED_TOLERANCE = 2e-2


def verify(
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Clone HEAD, run everything there, and compare.")
    ] = False,
) -> None:
    """Check every result in the tree; exits with 1 where one is not what its inputs make.

    README against reports, reports and data against dvc.lock, code and parameters against
    dvc.lock and the last commit, token files and checkpoints against their own checksums and what
    is said of them, and the evaluation of best.pt computed again. With --rerun, training too.

    Example: python -m pipeline verify --rerun
    """
    from pipeline.reporting.stages import read_stages

    read_stages()  # or this is not the project's top folder
    wrong: list[str] = []
    checks = (
        ("dvc.lock: code, parameters, data, results", _against_the_lock),
        ("README and reports are what the results say", _against_the_results),
        ("code, parameters and results are committed", _against_the_commit),
        ("best.pt evaluated again", _evaluated_again),  # first to need torch: it prepares for it
        ("corpus, tokens and checkpoints are whole", _files_are_whole),
        ("meta.json and statistics.json say what the tokens hold", _said_of_tokens),
        ("run.json, samples.txt and train.csv say what checkpoints hold", _said_of_checkpoints),
    )
    for title, check in checks:
        try:
            problems = check()
        except Exception as error:  # what cannot be checked is not whole
            problems = [str(error) if isinstance(error, UserError) else repr(error)]
        wrong += _told(title, problems)
    if rerun and not wrong:
        print("running everything again in a clone of HEAD, this takes as long as the first time")
        said, problems = _run_again()
        wrong += _told(said, problems)
    if wrong:
        print(f"error: {len(wrong)} wrong, first: {wrong[0]}", file=sys.stderr)
        raise typer.Exit(1)
    print("every result is what its inputs make")
    if not _same_platform():
        print(
            "note: another platform evaluated, so losses are compared within "
            f"{SAME_WEIGHTS_TOLERANCE:.2%}, and texts not at all"
        )
    if not rerun:
        print("note: training was not run again; --rerun does that")
    if lacking := _lacking_elsewhere():
        print(f"note: {lacking} in neither git nor DVC: another clone lacks that")
    if any(SWEEPS.glob("*.json")) or any(BENCHMARKS.glob("*.json")):
        print("note: sweeps and benchmarks are records of what ran once; their pages show them")


def _told(title: str, problems: list[str]) -> list[str]:
    """The problems, after a line for the check and one for each of them."""
    print(f"{'WRONG' if problems else 'ok   '} {title}")
    for problem in problems:
        print(f"      {problem}")
    return problems


def _against_the_lock() -> list[str]:
    from pipeline.reporting.lineage import check_dep, check_params
    from pipeline.reporting.revisions import WorkingTree, read_lock
    from pipeline.reporting.stages import read_stages

    tree, problems = WorkingTree(), []
    lock = read_lock(tree)
    for stage in read_stages():
        there = {out["path"] for out in lock.get(stage.name, {}).get("outs", [])}
        missing = [path for path in stage.outs if path not in there]
        problems += [f"dvc.lock: {path} of stage {stage.name} is missing" for path in missing]
    for name, entry in lock.items():
        for each in (*entry.get("deps", []), *entry.get("outs", [])):
            if problem := check_dep(tree, each):
                problems.append(f"{each['path']}: {problem} (stage {name})")
        for file, locked in entry.get("params", {}).items():
            for key, problem in check_params(tree, file, locked).items():
                problems.append(f"{file}: {key} {problem} (stage {name})")
    return list(dict.fromkeys(problems))


def _against_the_results() -> list[str]:
    from pipeline import bench, report, sweep

    problems = []
    for check in (report.report, sweep.table, bench.show_records):
        try:
            with redirect_stdout(StringIO()):
                check(check=True)
        except UserError as error:
            problems.append(str(error))
    return problems


def _against_the_commit() -> list[str]:
    from pipeline.reporting.revisions import git
    from pipeline.reporting.stages import read_stages

    paths = ["params.yaml", "dvc.yaml", "dvc.lock", "README.md", "reports", "pipeline"]
    paths += sorted({path for stage in read_stages() for path in stage.code})
    if not git("rev-parse", "--git-dir", check=False):
        return ["there is no git repository: `git init`, then `git add -A; git commit`"]
    if not git("rev-parse", "--verify", "--quiet", "HEAD", check=False):
        return ["there is no commit: `git add -A; git commit`"]
    listed = ("status", "--porcelain", "-z", "--no-renames")
    changed = git(*listed, "--", *paths).decode().split("\0")
    brought = [given for given in load_params().brought() if not _is_outside(given)]
    given = [Path(os.path.relpath(path)) for path in brought]
    notes = [f"{each}.dvc" for path in given for each in (path, *path.parents[:-1])]
    held = git(*listed, "--untracked-files=no", "--", *map(str, given), *notes)
    changed += held.decode().split("\0")
    return [f"{line[3:]}: differs from the last commit" for line in changed if line]


def _lacking_elsewhere() -> str:
    """What the results were made of that git and DVC hold no copy of, in words; '' if nothing."""
    from pipeline.reporting.revisions import untracked

    brought = load_params().brought()
    for given in brought:
        if _is_outside(given):
            return f"{given}, outside of the project, is"
    files = []
    for path in map(Path, untracked(map(os.path.relpath, brought))):
        files += [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    names = sorted(file.as_posix() for file in files if not _dvc_tracks(file))
    if not names:
        return ""
    return f"{names[0]} and {len(names) - 1} more are" if names[1:] else f"{names[0]} is"


def _is_outside(path: str) -> bool:
    return not Path(os.path.abspath(path)).is_relative_to(Path.cwd())


def _dvc_tracks(file: Path) -> bool:
    """Whether a .dvc file stands beside it, or beside a folder that it is in."""
    return any(path.with_name(f"{path.name}.dvc").is_file() for path in (file, *file.parents[:-1]))


def _files_are_whole() -> list[str]:
    from pipeline.corpus.readers import open_corpus
    from pipeline.corpus.token_file import verify_tokens
    from pipeline.training.checkpoint import read_checkpoint

    token_files = sorted([*TOKENS.glob("*.bin"), *TOKENS.glob("*.pt")])
    checkpoints = sorted(CHECKPOINTS.glob("*.pt"))
    problems = [
        f"{folder}: found nothing there; run `dvc checkout`, or `dvc repro`"
        for folder, found in ((TOKENS, token_files), (CHECKPOINTS, checkpoints))
        if not found
    ]
    checks: list[tuple[Callable[[Path], object], Path]] = [(open_corpus, RAW)]
    checks += [(verify_tokens, path) for path in token_files]
    checks += [(read_checkpoint, path) for path in checkpoints]
    for check, path in checks:
        try:
            check(path)
        except UserError as error:
            problems.append(str(error))
    return problems


def _said_of_tokens() -> list[str]:
    """Where meta.json or statistics.json, which nothing else compares, is not of the tokens."""
    import numpy as np

    from pipeline.corpus import tokenizers
    from pipeline.corpus.encoding import Encoded
    from pipeline.corpus.readers import RawCorpus
    from pipeline.corpus.splits import SPLITS
    from pipeline.corpus.statistics import Statistics
    from pipeline.corpus.token_file import AGAIN, load_split, read_meta
    from pipeline.corpus.token_stream import PART, document_bounds

    meta, tokenizer = read_meta(TOKENS), tokenizers.load(TOKENIZER)
    # unchecked: `_files_are_whole` has hashed its texts
    corpus = RawCorpus(RAW, **read_json(MANIFEST, CorpusError, "run `dvc repro fetch`"))
    statistics, held = Statistics(tokenizer), {}
    for split in SPLITS:
        tokens = load_split(TOKENS, split).tokens
        for start in range(0, len(tokens), PART):
            statistics.add(Encoded(split, tokens[start : start + PART], [], [], 0))
        lengths = np.diff(document_bounds(tokens, tokenizer.eot_id)).tolist()
        statistics.add(Encoded(split, tokens[:0], lengths, [True] * len(lengths), 0))
        cut = tokens[-1:].tolist() not in ([], [tokenizer.eot_id])
        held[split] = {"bytes": tokenizer.text_size(tokens), "documents": len(lengths) - cut}
    said = {split: {key: meta["splits"][split][key] for key in held[split]} for split in SPLITS}
    told, counted = read_json(STATISTICS, TokenFileError, AGAIN), statistics.to_json()
    # a list of ids may hold <|endoftext|> before its end, and a corpus of one document has none
    if corpus.holds_token_lists:
        told["document_tokens"] = counted["document_tokens"]
    if corpus.holds_token_lists or not any(counts["documents"] for counts in held.values()):
        for split in SPLITS:
            held[split]["documents"] = said[split]["documents"]
    facts = {name: getattr(corpus, name) for name in ("name", "source", "license", "sha256")}
    facts["files"] = len(corpus.files)
    for name in ("documents", "bytes"):
        facts[name] = sum(counts[name] for counts in said.values())
    own = {name: meta["corpus"].get(name) for name in facts}
    wrong = [f"{META}: splits.{line}" for line in _differing(said, held, 0.0)]
    wrong += [f"{META}: corpus.{line}" for line in _differing(own, facts, 0.0)]
    return wrong + [f"{STATISTICS}: {line}" for line in _differing(told, counted, 0.0)]


def _said_of_checkpoints() -> list[str]:
    """Where run.json, samples.txt or train.csv is not of the checkpoints."""
    from pipeline.training.checkpoint import load_checkpoint, read_checkpoint
    from pipeline.training.history import History
    from pipeline.training.samples import format_samples

    wrong = []
    history = History.from_dict(read_checkpoint(LAST)["history"])
    if HISTORY.read_text(encoding="utf-8") != history.to_csv():
        wrong.append(f"{HISTORY}: not the rows that last.pt holds")
    if any(history.losses[row.step - 1] != row.loss for row in history.rows):
        wrong.append(f"{LAST}: its losses are not those of its rows")
    facts = read_json(RUN, CheckpointError, "run `dvc repro train`")
    model, _ = load_checkpoint(BEST)
    held = {name: value for name, value in vars(model.config).items() if name in facts["model"]}
    held["parameters"] = model.count_parameters()
    held["flops_per_token"] = model.flops_per_token()
    wrong += [f"{RUN}: model.{line}" for line in _differing(facts["model"], held, 0.0)]
    train = load_params().train
    ended = "max_steps" if len(history.losses) == train.max_steps else "patience"
    if train.target_loss is not None and history.losses[-1] <= train.target_loss:
        ended = "target_loss"
    if facts["stopped"] != ended:
        wrong.append(f"{RUN}: stopped is {facts['stopped']!r}, by last.pt {ended!r}")
    if SAMPLES_ON_THE_WAY.read_text(encoding="utf-8") != format_samples(facts["samples"]):
        wrong.append(f"{RUN}: its samples are not those of {SAMPLES_ON_THE_WAY}")
    return wrong


def _evaluated_again() -> list[str]:
    from pipeline.training import runtime

    params = load_params()
    runtime.prepare_process(params.train)
    from pipeline.evaluation.metrics import compute

    again = compute(params)
    here = _same_platform()
    tolerance = 0.0 if here else SAME_WEIGHTS_TOLERANCE
    written = json.loads(METRICS.read_text(encoding="utf-8"))
    wrong = [f"{METRICS}: {line}" for line in _differing(written, again.metrics, tolerance)]
    positions = (_rows(POSITIONS.read_text(encoding="utf-8")), _rows(again.positions))
    # where the text is known by heart a loss is near 0, and fp32 rounds more than a share of it
    least = tolerance / 10
    wrong += [f"{POSITIONS}: {line}" for line in _differing(*positions, tolerance, least=least)]
    for path, values in again.others.items() if here else ():
        if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(values)):
            wrong.append(f"{path}: not what best.pt gives again")
    return wrong


def _rows(text: str) -> dict[str, float]:
    return {row["position"]: float(row["loss"]) for row in csv.DictReader(StringIO(text))}


def _same_platform() -> bool:
    """Whether this machine evaluates as that of the results did."""
    from pipeline.training.runtime import choose_for_use

    params = load_params()
    here = choose_for_use(params.train, params.model).fingerprint()
    then = read_json(EVALUATION_RUN, CheckpointError, "run `dvc repro evaluate`").get("runtime")
    return bool(then == here)


def _differing(
    one: Any, other: Any, tolerance: float, name: str = "", least: float = 0.0
) -> list[str]:
    if isinstance(one, list) and isinstance(other, list):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        lines: list[str] = []
        for key in sorted({*one, *other}):
            inner = f"{name}.{key}" if name else str(key)
            lines += _differing(one.get(key), other.get(key), tolerance, inner, least)
        return lines
    numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
    if one == other or (numbers and math.isclose(one, other, rel_tol=tolerance, abs_tol=least)):
        return []
    return [f"{name} is {one!r}, by its inputs {other!r}"]


def _run_again() -> tuple[str, list[str]]:
    """What was shown, and what differs, from a clone of HEAD run from the start."""
    from pipeline.reporting.revisions import git, untracked

    with tempfile.TemporaryDirectory(prefix="tracegpt-") as folder:
        top = git("rev-parse", "--show-toplevel").decode().strip()
        git("clone", "--quiet", "--no-hardlinks", top, f"{folder}/clone")
        clone = Path(folder, "clone", git("rev-parse", "--show-prefix").decode().strip())
        for path in untracked(load_params().brought()):
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            if Path(path).is_dir():
                shutil.copytree(path, clone / path, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, clone / path)
        command = [sys.executable, "-m", "dvc", "repro", "--force"]
        done = subprocess.run(command, cwd=clone, env=environment())
        if done.returncode:
            return "dvc repro in the clone failed", [f"dvc repro exited with {done.returncode}"]
        here, there = (
            [
                json.loads((root / run).read_text("utf-8"))["runtime"]
                for run in (RUN, EVALUATION_RUN)
            ]
            for root in (Path(), clone)
        )
        if here == there:
            ours, theirs = _hashes(Path()), _hashes(clone)
            names = sorted({*ours, *theirs})
            wrong = [f"{n}: differs" for n in names if ours.get(n) != theirs.get(n)]
            said = "differing" if wrong else "identical"
            return f"{said} bytes: {len(names)} files, made again on the same platform", wrong
        written = json.loads(METRICS.read_text(encoding="utf-8"))
        again = json.loads((clone / METRICS).read_text(encoding="utf-8"))
        held_out = [name for name in ("val", "test") if name in written]
        ours, theirs = ({name: values[name] for name in held_out} for values in (written, again))
        wrong = [f"{METRICS}: {line}" for line in _differing(ours, theirs, RETRAINED_TOLERANCE)]
        return (
            f"another platform: metrics within {RETRAINED_TOLERANCE:.0%}, bytes not compared",
            wrong,
        )


def _hashes(root: Path) -> dict[str, str]:
    from pipeline.reporting.revisions import ignored

    files: list[Path] = []
    for name in COMPARED:
        path = root / name
        files += [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return {
        file.relative_to(root).as_posix(): sha256_file(file)
        for file in files
        if "benchmarks" not in file.parts and not ignored(file.relative_to(root))
    }
