"""Where the stages read and write, from the project's top folder; dvc.yaml lists the same."""

import os
from pathlib import Path

CACHE = Path(".cache")  # unfinished work, and the log with times: in neither git nor DVC

RAW = Path("data/raw")
MANIFEST = RAW / "manifest.json"

GIVEN_TOKENIZER = Path("data/tokenizer/tokenizer.json")
BROUGHT = ("data/init", "data/tokenizer")  # what people bring beside their text

TOKENS = Path("data/tokens")
META = TOKENS / "meta.json"
TOKENIZER = TOKENS / "tokenizer.json"
STATISTICS = TOKENS / "statistics.json"

CHECKPOINTS = Path("data/checkpoints")
BEST = CHECKPOINTS / "best.pt"
LAST = CHECKPOINTS / "last.pt"
RUN = CHECKPOINTS / "run.json"
SAMPLES_ON_THE_WAY = CHECKPOINTS / "samples.txt"  # as training goes; report's has all

EVALUATION = Path("data/evaluation")
POSITIONS = EVALUATION / "positions.csv"
TOKEN_LOSSES = EVALUATION / "tokens.json"
GENERATED = EVALUATION / "generated.json"
STRATEGIES = EVALUATION / "strategies.json"
EVALUATION_RUN = EVALUATION / "run.json"

REPORTS = Path("reports")
HISTORY = REPORTS / "train.csv"
SAMPLES = REPORTS / "samples.txt"
METRICS = REPORTS / "metrics.json"
PROVENANCE = REPORTS / "provenance.json"
RESULTS_PAGE = REPORTS / "results.md"
REPORT_PAGE = REPORTS / "report.html"
FIGURES = REPORTS / "figures"
SWEEPS = REPORTS / "sweeps"
BENCHMARKS = REPORTS / "benchmarks"
README = Path("README.md")


def shared_cache() -> Path:
    """.cache of the project itself, also in a temporary copy in which DVC runs an experiment."""
    return Path(os.environ.get("DVC_ROOT", "."), CACHE)
