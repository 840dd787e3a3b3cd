"""A sweep's record as CSV, as a page, and as the README's section SWEEP; pure functions of it."""

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import ttest_ind

from pipeline.reporting.markdown import code, count, picture, table
from pipeline.reporting.sweep_record import (
    SEED,
    Group,
    Record,
    Run,
    best_name,
    compares,
    finished,
    groups,
    score,
    short_names,
    shown,
)

SCORES = ("loss", "perplexity", "bits_per_byte")
CSV_BEGINS = "name,best,state,error"
LEVEL = 0.05  # of the test whether the best differs from the second
CAPTIONS = {  # figure -> what it shows
    "loss": "Val loss of each run",
    "params": "Bits per byte of val over each setting",
    "heatmap": "Bits per byte of val over two settings",
}
NONE_YET = "No sweep has been recorded yet: `make sweep` runs one."


def as_csv(record: Record) -> str:
    """Every run with every number in full; empty where a run has none."""
    best = best_name(record)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = [f"{split}.{name}" for split in ("val", "test") for name in SCORES]
    rest = ["parameters", "steps", "tokens", "seconds", "commit"]
    writer.writerow([*CSV_BEGINS.split(","), *record["varied"], *scores, *rest, "corpus_sha256"])
    for run in record["runs"]:
        row = [run["name"], "*" if run["name"] == best else "", run["state"], run.get("error", "")]
        row += [shown(run["settings"][key]) for key in record["varied"]]
        row += [run.get(split, {}).get(name, "") for split in ("val", "test") for name in SCORES]
        row += ["" if run.get(key) is None else run[key] for key in rest]
        writer.writerow([*row, run.get("corpus", {}).get("sha256", "")])
    return text.getvalue()


def as_page(record: Record, figures: Sequence[str]) -> str:
    """reports/sweeps/NAME.md: every run, what they share, the verdict, these figures."""
    name = record["sweep"]
    shared = ", ".join(code(f"{k}={shown(v)}") for k, v in record["all_with"].items())
    parts = [
        f"# Sweep {name}",
        record["description"],
        runs_table(record, full=True),
        f"All with {shared}." if shared else "",
        f"Trained on {texts(record)}." if texts(record) else "",
        f"What is not named here is as params.yaml of commit {code(record['baseline'][:10])} has "
        f"it. Each run's commit, its DVC experiment's, is in `{name}.csv`. Time is "
        "empty where DVC had the results already.",
        f"## Over seeds\n\n{groups_table(record)}" if has_seeds(record) else "",
        verdict(record),
        *(f"![{CAPTIONS[figure]}]({name}/{figure}.png)" for figure in figures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def texts(record: Record) -> str:
    """What the finished runs were trained on, by name and the start of its sha256; empty where
    an older record does not tell."""
    corpora = [run["corpus"] for run in finished(record) if "corpus" in run]
    found = [(corpus["name"], corpus["sha256"][:10]) for corpus in corpora]
    return " and ".join(f"{code(name)} ({code(digest)})" for name, digest in dict.fromkeys(found))


def is_drawn(path: Path) -> bool:
    """Whether a file is a sweep's CSV or page by its first line, and not one of people's own."""
    begins = {".csv": CSV_BEGINS, ".md": f"# Sweep {path.stem}\n"}.get(path.suffix)
    return begins is not None and path.read_text("utf-8", "replace").startswith(begins)


def as_section(records: Sequence[Record], reports: str = "reports/") -> str:
    """The README's section SWEEP: each sweep's table and what came out."""
    sections = []
    for record in records:
        name, on = record["sweep"], f", on {texts(record)}" if texts(record) else ""
        parts = [
            f"**{name}**{': ' if record['description'] else ''}{record['description']}",
            groups_table(record) if has_seeds(record) else runs_table(record, full=False),
            f"{verdict(record)} Every run: [{name}.md]({reports}sweeps/{name}.md), from commit "
            f"{code(record['baseline'][:10])}{on}.",
        ]
        if finished(record):
            parts.append(picture(f"{reports}sweeps/{name}/loss", CAPTIONS["loss"]))
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections) or NONE_YET


def runs_table(record: Record, full: bool) -> str:
    """A row for each run, the best in bold; `full` adds losses, time and name."""
    best = best_name(record)
    heads = list(map(code, short_names(record["varied"])))
    heads += ["val bits per byte", "test bits per byte", "test perplexity"]
    heads += ["val loss", "test loss"] if full else []
    heads += ["parameters", "tokens", *(["seconds", "run"] if full else [])]
    rows = []
    for run in record["runs"]:
        row = [_cell(run["settings"][key]) for key in record["varied"]]
        if run["state"] == "done":
            row += _numbers(run, full)
            rows.append(_bold(row) if run["name"] == best else row)
        else:
            row += [_state(run)]
            row += [""] * (len(heads) - len(row) - full)
            rows.append(row + ([code(run["name"])] if full else []))
    return table(heads, rows)


def _numbers(run: Run, full: bool) -> list[str]:
    val, test = run["val"], run.get("test")
    cells = [f"{val['bits_per_byte']:.4f}"]
    cells += [f"{test['bits_per_byte']:.4f}", f"{test['perplexity']:.2f}"] if test else ["", ""]
    if full:
        cells += [f"{val['loss']:.4f}", f"{test['loss']:.4f}" if test else ""]
    cells += [count(run["parameters"]), count(run["tokens"])]
    if full:
        seconds = "" if run["seconds"] is None else f"{run['seconds']:.0f}"
        cells += [seconds, code(run["name"])]
    return cells


def groups_table(record: Record) -> str:
    """Mean and standard deviation over seeds, and the runs that failed, below."""
    keys = [key for key in record["varied"] if key != SEED]
    heads = [*map(code, short_names(keys)), "seeds", "val bits per byte", "test bits per byte"]
    heads += ["test perplexity", "parameters", "tokens"]
    rows = []
    for place, (settings, runs) in enumerate(groups(record)):
        row = [*(_cell(settings[key]) for key in keys), str(len(runs)), spread(_scores(runs))]
        for name, digits in (("bits_per_byte", 4), ("perplexity", 2)):
            values = [run["test"][name] for run in runs if "test" in run]
            row.append(spread(values, digits) if values else "")
        row += [_range([run[name] for run in runs]) for name in ("parameters", "tokens")]
        rows.append(_bold(row) if place == 0 and compares(record) else row)
    for run in record["runs"]:
        if run["state"] != "done":
            row = [*(_cell(run["settings"][key]) for key in keys)]
            row += [f"seed {run['settings'][SEED]}", _state(run)]
            rows.append(row + [""] * (len(heads) - len(row)))
    return table(heads, rows)


def _cell(value: Any) -> str:
    """A setting's value: numbers as they are, all else in code type, as text may hold anything."""
    return shown(value) if isinstance(value, int | float) else code(shown(value))


def _state(run: Run) -> str:
    return f"{run['state']}: {code(run['error'])}" if "error" in run else str(run["state"])


def _bold(row: Sequence[str]) -> list[str]:
    return [f"**{cell}**" if cell else "" for cell in row]


def _range(numbers: Sequence[int]) -> str:
    """Of equal numbers one; runs that stopped early have others."""
    least, most = min(numbers), max(numbers)
    return count(least) if least == most else f"{count(least)} to {count(most)}"


def has_seeds(record: Record) -> bool:
    """Whether the seed is one of the things that vary."""
    return SEED in record["varied"]


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation (of a sample); one value alone has none."""
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle


def verdict(record: Record) -> str:
    """The best, how far it is ahead on val, whether that is more than seeds make, and whether it
    lies at an edge of what was tried."""
    found = groups(record)
    if not found:
        return "No run is done."
    if not compares(record):
        return "The runs' val texts differ, so their scores do not compare."
    return " ".join([_comparison(found), *_edges(found)])


def _edges(found: Sequence[Group]) -> Iterator[str]:
    """A sentence for each number whose best is the least or the largest of three or more tried,
    all else being equal."""
    best = found[0][0]
    for key, value in best.items():
        tried = [settings[key] for settings, _ in found if {**settings, key: value} == best]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in tried)
        if len(tried) > 2 and numbers and value in (min(tried) or None, max(tried)):  # none below 0
            which = "least" if value == min(tried) else "largest"
            name = code(f"{key}={shown(value)}")
            yield f"{name} is the {which} tried: a better one may lie beyond."


def _comparison(found: Sequence[Group]) -> str:
    settings, best = found[0]
    name = ", ".join(code(f"{key}={shown(value)}") for key, value in settings.items())
    said = f"Best on val: {name or 'the only setting'}"
    if len(found) == 1:
        return f"{said}."
    second = found[1][1]
    ahead = mean(_scores(second)) - mean(_scores(best))
    said = f"{said}, {ahead:.4f} bits per byte below the next"
    if min(len(best), len(second)) < 2:
        return f"{said}, by one seed each." if len(best) == len(second) == 1 else f"{said}."
    if stdev(_scores(best)) == stdev(_scores(second)) == 0:
        return f"{said}; the seeds make no difference."
    p = float(ttest_ind(_scores(best), _scores(second), equal_var=False).pvalue)
    outcome = "a difference" if p < LEVEL else "no difference shown"
    return (
        f"{said}: {outcome} at the {LEVEL:.0%} level (Welch's t, two-sided, "
        f"{len(best)} and {len(second)} seeds, p = {p:.2g})."
    )


def _scores(runs: Sequence[Run]) -> list[float]:
    return [score(run) for run in runs]
