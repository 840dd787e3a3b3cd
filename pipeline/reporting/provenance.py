"""Where the results come from, in hashes: corpus, tokens, parameters, code, checkpoint, platform.

There is no commit or date in it, nor a path of the machine that params.yaml does not name: a commit
cannot hold its own id, and a fresh clone must give the same bytes. Git's history is searched for
these hashes instead.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import ReportError
from pipeline.params import Params
from pipeline.paths import (
    CHECKPOINTS,
    GENERATED,
    HISTORY,
    METRICS,
    POSITIONS,
    RUN,
    SAMPLES_ON_THE_WAY,
    STRATEGIES,
    TOKEN_LOSSES,
)
from pipeline.reporting.results import Results
from pipeline.reporting.stages import Stage
from pipeline.storage import sha256_file, sha256_json


def provenance(results: Results, stages: Sequence[Stage], params: Params) -> dict[str, Any]:
    """The hashes and versions behind the results, as provenance.json holds them."""
    code = {path: _sha256(Path(path)) for path in sorted({p for s in stages for p in s.code})}
    sections = sorted({section for stage in stages for section in stage.params})
    checkpoints = sorted([*CHECKPOINTS.glob("*.pt"), RUN, SAMPLES_ON_THE_WAY])
    values = params.model_dump()
    start = results.run.get("init_from")
    return {
        **({"init_from": start} if start else {}),
        "corpus": results.meta["corpus"],
        "tokens": {key: results.meta[key] for key in ("tokenizer", "format", "splits")},
        "parameters": {section: sha256_json(values[section]) for section in sections},
        "code": code,
        "stages": {
            stage.name: {
                "code": sha256_json({path: code[path] for path in stage.code}),
                "parameters": list(stage.params),
                "files": list(stage.code),
            }
            for stage in stages
        },
        "checkpoints": {path.name: _sha256(path) for path in checkpoints},
        "results": {
            path.as_posix(): _sha256(path)
            for path in (METRICS, HISTORY, POSITIONS, TOKEN_LOSSES, GENERATED, STRATEGIES)
        },
        "platform": results.run["runtime"],
        "evaluated_on": results.evaluation["runtime"],
        "figures": {name: version(name) for name in ("matplotlib", "pandas", "pillow")},
    }


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError:
        raise ReportError(f"{path}: not found; dvc.yaml lists it, run `dvc repro`") from None
