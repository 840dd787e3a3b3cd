"""The model card of an export: what it is, how good, where it comes from, how to load it.

Lineage is that of reports/ where the exported weights are a checkpoint of the run that reports/ is
about, by their hash, and metrics too where they are best.pt, which was scored; other weights get
neither.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.corpus.tokenizers import END_OF_TEXT
from pipeline.paths import METRICS, PROVENANCE
from pipeline.reporting.markdown import SCORES, code, count, score_rows, table

if TYPE_CHECKING:
    from pipeline.model.gpt import GPTConfig

LINEAGE_FILE = "lineage.json"


def lineage(sha256: str, beside: Path) -> tuple[str, dict[str, Any] | None]:
    """The weights' sha256, and {"metrics", "provenance"} of the run that made them, if known.

    Metrics are empty where other weights of that run were scored.

    An export has both in lineage.json `beside` its weights, which have another form and so another
    hash; else reports/ tells, where it is about these weights.
    """
    try:
        kept = json.loads((beside / LINEAGE_FILE).read_text(encoding="utf-8"))
        if kept["exported_sha256"] == sha256:
            # it may come from anywhere: what is read of it must be there, and digests be text
            "".join(digest for _, digest in origin_rows(kept["origin"], kept["sha256"]))
            _begins_texts(kept["origin"])
            if kept["origin"] is not None:
                score_rows(kept["origin"]["metrics"])
            return kept["sha256"], kept["origin"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return sha256, _reported(sha256)


def _begins_texts(origin: dict[str, Any] | None) -> bool:
    """Whether the model saw <|endoftext|> before a text: in a corpus of one there was none."""
    return origin is not None and bool(origin["provenance"]["corpus"]["documents"] > 1)


def _reported(sha256: str) -> dict[str, Any] | None:
    try:
        provenance = json.loads(PROVENANCE.read_text(encoding="utf-8"))
        metrics = json.loads(METRICS.read_text(encoding="utf-8"))
        if sha256 not in provenance["checkpoints"].values():
            return None
        if sha256 != provenance["checkpoints"]["best.pt"]:
            metrics = {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return {"metrics": metrics, "provenance": provenance}


def facts(config: "GPTConfig", parameters: int, tokenizer_kind: str) -> list[tuple[str, str]]:
    """The model in a few rows."""
    values = asdict(config)
    rows = [("architecture", values["architecture"]), ("parameters", count(parameters))]
    rows += [(n, count(values[n])) for n in ("n_layer", "n_head", "n_embd", "block_size")]
    return [*rows, ("tokenizer", f"{tokenizer_kind}, {count(values['vocab_size'])} tokens")]


def origin_rows(origin: dict[str, Any] | None, source_sha256: str) -> list[tuple[str, str]]:
    """What the weights were made from, by content."""
    rows = [("weights", source_sha256)]
    if origin is None:
        return rows
    provenance = origin["provenance"]
    corpus = provenance["corpus"]
    rows += [
        (f"corpus: {code(corpus['name'])}", corpus["sha256"]),
        ("tokenizer", provenance["tokens"]["tokenizer"]["sha256"]),
    ]
    rows += [
        (f"parameters: {code(name)}", digest) for name, digest in provenance["parameters"].items()
    ]
    rows += [
        (f"code of {code(name)}", stage["code"]) for name, stage in provenance["stages"].items()
    ]
    return rows


def model_card(
    config: "GPTConfig",
    rows: list[tuple[str, str]],
    origin: dict[str, Any] | None,
    sha256: str,
) -> str:
    """README.md of an exported folder; rows: the model's facts."""
    # transformers runs a canon model by the code that lies beside it
    trust = ", trust_remote_code=True" if config.architecture == "canon" else ""
    begun = _begins_texts(origin)
    prompt = END_OF_TEXT if begun else "\\n"
    new_tokens = min(100, config.block_size - 1)  # GPT-2 has no position for more than its context
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
        "# A GPT trained with TraceGPT",
        table(("model", "value"), rows),
        "## Metrics",
    ]
    if origin is None:
        parts += ["None are recorded: the weights are not those of a reported run."]
    elif scores := score_rows(origin["metrics"]):
        parts += [table(SCORES, scores)]
    else:
        parts += ["None are recorded: of the run's checkpoints best.pt alone was scored."]
    parts += [
        "## Lineage",
        "Everything by its content, as sha256:",
        table(("made from", "sha256"), [(n, code(d)) for n, d in origin_rows(origin, sha256)]),
        "## Use",
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # this folder\n'
        f"model = AutoModelForCausalLM.from_pretrained(folder{trust})\n"
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})\n"
        f'inputs = tokenizer("{prompt}", return_tensors="pt")\n'
        f"output = model.generate(**inputs, max_new_tokens={new_tokens}, do_sample=True)\n"
        "print(tokenizer.decode(output[0]))\n"
        "```",
        *(["It needs transformers 5."] if config.architecture == "modern" else []),
        f"It was trained on documents separated by `{END_OF_TEXT}`; a text of its own begins there."
        if begun
        else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
