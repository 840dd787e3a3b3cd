"""The results in Markdown: one function for each marked section of the README.

Every number comes from a file that a stage wrote, in the same digits everywhere.
"""

import json
from typing import Any

from pipeline.evaluation.baselines import MOST_TOKENS, XZ_MOST_BYTES
from pipeline.reporting.markdown import SCORES, code, count, fence, picture, score_rows, table
from pipeline.reporting.plots import BASELINES, CAPTIONS
from pipeline.reporting.results import Results
from pipeline.training.samples import sample_heading, visible

IN_THE_OPEN = 2  # of the figures
LOG_ROWS = 12  # as many as are read at a glance
STOPPED = {
    "max_steps": "",
    "target_loss": " It stopped early, at its target loss.",
    "patience": " It stopped early, as the val loss no longer fell.",
}


def readme_sections(
    results: Results, provenance: dict[str, Any], reports: str = "reports/"
) -> dict[str, str]:
    """Section name -> Markdown. `reports` is the way from the reader's file to reports/."""
    return {
        "SUMMARY": summary(results),
        "PLOT": plot(reports),
        "METRICS": metrics(results),
        "LOGS": logs(results, reports),
        "SAMPLES": samples(results, reports),
        "PROVENANCE": provenance_table(provenance, reports),
    }


def results_page(sections: dict[str, str], settings: dict[str, dict[str, Any]]) -> str:
    """reports/results.md: the same sections on a page of their own, with the settings."""
    titles = {
        "SUMMARY": "Summary",
        "PLOT": "Figures",
        "METRICS": "Metrics",
        "LOGS": "Log",
        "SAMPLES": "Samples",
        "PROVENANCE": "Provenance",
    }
    pages = [f"## {title}\n\n{sections[name]}\n" for name, title in titles.items()]
    rows = [
        (code(f"{section}.{key}"), code(json.dumps(value, ensure_ascii=False)))
        for section, values in settings.items()
        for key, value in values.items()
    ]
    pages.insert(-1, f"## Settings\n\n{table(('setting', 'value'), rows)}\n")
    return "\n".join(["# Results\n", *pages])


def summary(results: Results) -> str:
    """What was trained on what, and how good it is, in a paragraph."""
    corpus, model, train = results.meta["corpus"], results.run["model"], results.metrics["train"]
    tokenizer, held_out = results.meta["tokenizer"], results.metrics[results.held_out]
    passes = train["tokens"] / results.meta["splits"]["train"]["tokens"]
    start = results.run.get("init_from")
    started = f"started from {code(start['source'])} and " if start else ""
    unseen = "which it has never seen"
    if results.held_out == "val":
        unseen = "by which it was chosen"
    elif start:  # what made those weights is not known here
        unseen = "which this training has not seen"
    xz = results.metrics["baselines"]["xz_after_train"]["bits_per_byte"]
    return (
        f"A `{model['architecture']}` model of {count(train['parameters'])} parameters "
        f"({count(model['n_layer'], 'layer')}, {count(model['n_head'], 'head')}, "
        f"{model['n_embd']} wide, context {count(model['block_size'], 'token')}) on "
        f"*{corpus['name']}* ({count(corpus['documents'], 'document')}, "
        f"{corpus['bytes'] / 1e6:.2f} MB, `{tokenizer['kind']}` tokenizer of "
        f"{count(tokenizer['vocab_size'])} tokens), "
        f"{started}trained for {count(train['steps'], 'step')} on "
        f"{count(train['tokens'], 'token')}, "
        f"{passes:,.{1 if passes >= 0.1 else 4}f} times the train text."
        f"{STOPPED[results.run['stopped']]}\n\n"
        f"On the {results.held_out} text, {unseen}, it reaches "
        f"**{held_out['bits_per_byte']:.3f} bits per byte** (perplexity "
        f"{held_out['perplexity']:.2f} a token); `xz -9`, given the train text first, needs "
        f"{xz:.3f}."
    )


def plot(reports: str) -> str:
    """The figures, each on light or dark as the reader has it: two in the open, others folded."""
    pictures = [picture(f"{reports}figures/{name}", shows) for name, shows in CAPTIONS.items()]
    in_the_open, folded = pictures[:IN_THE_OPEN], pictures[IN_THE_OPEN:]
    summary = "<details><summary>Learning rate, gradient norm, loss by position, tokens</summary>"
    return "\n\n".join([*in_the_open, summary, *folded, "</details>"])


def metrics(results: Results) -> str:
    """Held-out scores, what the same text costs otherwise, and how training ended."""
    train, baselines = results.metrics["train"], results.metrics["baselines"]
    last = f"mean loss of the last {min(100, train['steps'])} steps"
    training = [
        ("final loss", f"{train['final_loss']:.4f}"),
        ("best loss", f"{train['best_loss']:.4f} at step {count(train['best_loss_step'])}"),
        (last, f"{train['mean_loss_last_100']:.4f}"),
        ("best val loss", f"{train['best_val_loss']:.4f} at step {count(train['best_step'])}"),
        *_before_training(train),
        ("steps", count(train["steps"])),
        ("tokens", count(train["tokens"])),
    ]
    others = [
        (label, f"{baselines[name]['bits_per_byte']:.4f}") for name, label in BASELINES.items()
    ]
    return "\n\n".join(
        (
            "The best checkpoint on the whole of each split, every token scored once:",
            table(SCORES, score_rows(results.metrics)),
            f"The {results.held_out} text without this model{_learnt_from(results)}:",
            table(("predicted from", "bits per byte"), others),
            "During training (nats per token; each step's loss is of its own batch, val's of "
            "`train.eval_batches` micro-batches without overlap, 0 being all of them):",
            table(("training", "value"), training),
        )
    )


def _learnt_from(results: Results) -> str:
    """How much of a long train text the simpler models have seen."""
    train, seen = results.meta["splits"]["train"], []
    if train["tokens"] > MOST_TOKENS:
        seen.append(f"frequencies and pairs are of the last {MOST_TOKENS:,} tokens of train")
    if train["bytes"] > XZ_MOST_BYTES:
        seen.append(f"xz was given the last {XZ_MOST_BYTES:,} bytes of train")
    return f" ({', '.join(seen)})" if seen else ""


def _before_training(train: dict[str, Any]) -> list[tuple[str, str]]:
    """What pretrained weights reached on the same val windows, beside the fine-tuned ones."""
    if "initial_val_loss" not in train:
        return []
    return [
        ("val loss before training", f"{train['initial_val_loss']:.4f}"),
        (
            "val perplexity, before training and best",
            f"{train['initial_val_perplexity']:.2f}, {train['best_val_perplexity']:.2f}",
        ),
    ]


def logs(results: Results, reports: str) -> str:
    """Rows of train.csv, evenly spread, those with a look at val before others."""
    history = results.history
    looks = history.dropna(subset=["val_loss"])
    rows = looks if len(looks) > 1 else history
    last, shown = len(rows) - 1, min(LOG_ROWS, len(rows))
    chosen = sorted({round(i * last / max(shown - 1, 1)) for i in range(shown)})
    lines = [
        (
            count(row["step"]),
            count(row["tokens"]),
            f"{row['lr']:.3g}",
            f"{row['loss']:.4f}",
            f"{row['val_loss']:.4f}" if row["val_loss"] == row["val_loss"] else "",
            f"{row['grad_norm']:.3f}",
        )
        for row in rows.iloc[chosen].to_dict("records")
    ]
    heads = ("step", "tokens", "lr", "loss", "val loss", "gradient norm")
    return f"{table(heads, lines)}\n\nEvery row: [train.csv]({reports}train.csv)."


def samples(results: Results, reports: str) -> str:
    """What the finished model writes, and what it wrote on the way."""
    finished, on_the_way = (
        "\n\n".join(f"{_sentence(sample)}:\n\n{fenced(sample['text'])}" for sample in drawn)
        for drawn in (results.generated, results.run["samples"])
    )
    if on_the_way:
        on_the_way = (
            f"<details><summary>During training</summary>\n\n{on_the_way}\n\n</details>\n\n"
        )
    return f"{finished}\n\n{on_the_way}All of them: [samples.txt]({reports}samples.txt)."


def _sentence(sample: dict[str, Any]) -> str:
    heading = sample_heading(sample, code)
    return heading[0].upper() + heading[1:]


def provenance_table(provenance: dict[str, Any], reports: str) -> str:
    """What the results came from, by content: anyone can hash the same things and compare."""
    corpus, tokens = provenance["corpus"], provenance["tokens"]
    start = [provenance.get("init_from")]
    rows = [
        (f"corpus: {corpus['name']}, {code(corpus['source'])}", code(corpus["sha256"])),
        (f"tokenizer: {tokens['tokenizer']['kind']}", code(tokens["tokenizer"]["sha256"])),
        *((f"weights to start from: {code(s['source'])}", code(s["sha256"])) for s in start if s),
        *((f"tokens: {name}", code(s["sha256"])) for name, s in tokens["splits"].items()),
        *(
            (f"parameters: `{name}`", code(digest))
            for name, digest in provenance["parameters"].items()
        ),
        *(
            (f"code of `{name}` ({len(stage['files'])} files)", code(stage["code"]))
            for name, stage in provenance["stages"].items()
        ),
        *(
            (f"checkpoint: {name}", code(digest))
            for name, digest in provenance["checkpoints"].items()
            if name.endswith(".pt")
        ),
    ]
    trained_on, evaluated_on = provenance["platform"], provenance["evaluated_on"]
    others = {
        name: value
        for name, value in evaluated_on.items()
        if name not in ("precision", "attention", "compile") and trained_on.get(name) != value
    }
    elsewhere = f" Evaluated on another: {_facts(others)}." if others else ""
    return (
        f"{table(('made from', 'sha256'), rows)}\n\n"
        f"{_hashed(corpus, tokens)}\n\n"
        "Numeric platform, as another kind of processor rounds differently: "
        f"{_facts({**trained_on, **provenance['figures']})}.{elsewhere}\n\n"
        f"Every file's hash: [provenance.json]({reports}provenance.json)."
    )


def _facts(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {code(value)}" for name, value in values.items())


def _hashed(corpus: dict[str, Any], tokens: dict[str, Any]) -> str:
    """What the hashes are of, so that anyone can take them again."""
    text = "the list of its files' names and hashes" if corpus["name"] == "own" else "its download"
    ids = "their ids, 2 or 4 bytes each"
    if tokens["format"] == "bin":
        ids = "their file without its header of 128 bytes"
        if any("shards" in split for split in tokens["splits"].values()):
            ids += ", where there are several the list of their hashes"
    return (
        f"What is hashed: of the corpus {text}; of tokens {ids}; of code, tokenizer and parameters "
        "(`train.lr: auto` as what it came to) their JSON with sorted keys (`sha256_json`)."
    )


def fenced(text: str) -> str:
    """A text in a code fence that it cannot close itself."""
    text = visible(text).strip("\n")
    ticks = fence(text, 3)
    return f"{ticks}text\n{text}\n{ticks}"
