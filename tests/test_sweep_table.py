"""Proves that a sweep's table, page, section and figures say what its record says, and no more."""

import copy
import csv
import itertools
import math
import random
from statistics import mean, stdev
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.errors import ReportError
from pipeline.reporting import grounds
from pipeline.reporting.sweep_plots import _short, draw_sweep
from pipeline.reporting.sweep_record import best_run, groups
from pipeline.reporting.sweep_table import NONE_YET, as_csv, as_page, as_section, verdict

PNG = b"\x89PNG"
FAILED = {"state": "failed", "error": "train: the loss is not finite at step 3"}


def make_record(name: str, varied: list[str], values: list[tuple[Any, ...]]) -> dict[str, Any]:
    """A record whose scores rise in the order of `values`."""
    noise = random.Random(name)
    runs = []
    for place, settings in enumerate(values):
        bits = 2 + 0.1 * place + noise.uniform(0, 0.05)
        scores = {"loss": 2 * bits, "perplexity": math.exp(2 * bits), "bits_per_byte": bits}
        runs.append(
            {
                "name": f"{name}-{place}",
                "settings": dict(zip(varied, settings, strict=True)),
                "state": "done",
                "val": scores,
                "test": {**scores, "bits_per_byte": bits + 0.01},
                "parameters": 12345,
                "steps": 400,
                "tokens": 400 * 1024,
                "seconds": 12.3,
                "commit": f"{place:040x}",
                "corpus": {"name": "own", "sha256": "c" * 64},
                "curve": [[n, n * 1024, 2 * bits + math.exp(-n / 90)] for n in range(50, 401, 50)],
            }
        )
    return {
        "sweep": name,
        "description": "Which one?",
        "baseline": "b" * 40,
        "all_with": {"train.max_steps": 400, "train.threads": 1},
        "varied": varied,
        "runs": runs,
    }


LR = make_record("lr", ["train.lr"], [(1e-3,), (5e-4,), (1e-4,)])
GRID = make_record(
    "depth", ["model.n_layer", "model.n_head"], list(itertools.product([1, 2], [2, 4]))
)
SEEDS = make_record(
    "seeds",
    ["train.optimizer", "train.seed"],
    list(itertools.product(["muon", "adamw"], [1, 2, 3])),
)

TOGETHER = make_record(
    "together", ["model.architecture", "train.lr"], [("gpt2", 1e-3), ("modern", 1e-2)]
)


TEXTS = make_record("texts", ["corpus.path"], [("books",), ("songs",)])
TEXTS["runs"][1]["corpus"] = {"name": "own", "sha256": "d" * 64}
FRACTIONS = make_record("fractions", ["prepare.val_fraction"], [(0.1,), (0.2,)])


def with_failure(record: dict[str, Any]) -> dict[str, Any]:
    record = copy.deepcopy(record)
    last = record["runs"][-1]
    record["runs"][-1] = {"name": last["name"], "settings": last["settings"], **FAILED}
    return record


def test_the_csv_holds_every_number_in_full_and_marks_the_best() -> None:
    rows = list(csv.DictReader(as_csv(LR).splitlines()))
    assert [row["best"] for row in rows] == ["*", "", ""]
    for row, run in zip(rows, LR["runs"], strict=True):
        assert float(row["train.lr"]) == run["settings"]["train.lr"]
        for split in ("val", "test"):
            for name, value in run[split].items():
                assert float(row[f"{split}.{name}"]) == value
        assert (row["commit"], row["seconds"]) == (run["commit"], "12.3")


def test_a_failed_run_stays_in_every_table_with_its_error_and_no_number() -> None:
    for record in (with_failure(LR), with_failure(SEEDS)):
        (row,) = (r for r in csv.DictReader(as_csv(record).splitlines()) if r["state"] != "done")
        assert row["error"] == FAILED["error"]
        numbers = ("val.loss", "test.bits_per_byte", "parameters", "tokens", "seconds", "commit")
        assert {row[key] for key in numbers} == {""}
        for text in (as_page(record, []), as_section([record])):
            line = next(line for line in text.splitlines() if FAILED["error"] in line)
            rest = line.partition(FAILED["error"])[2].replace(f"`{record['runs'][-1]['name']}`", "")
            assert rest.strip(" |`") == ""


def test_text_of_any_kind_leaves_a_table_whole() -> None:
    texts = ["a|b\n* c", "<b>x_y_</b>"]
    record = make_record("try", ["train.sample_prompt"], [(text,) for text in texts])
    record["runs"][1] |= {"state": "failed", "error": "data/*a*_x.pt: not found"}
    page = as_page(record, [])
    assert "| **`a\\|b\\n* c`** |" in page
    assert "| `<b>x_y_</b>` | failed: `data/*a*_x.pt: not found` |" in page


def test_the_best_is_by_val_never_by_test() -> None:
    record = copy.deepcopy(LR)
    record["runs"][2]["test"]["bits_per_byte"] = 0.1
    assert best_run(record)["name"] == "lr-0"


def test_seeds_are_grouped_with_mean_and_sample_deviation() -> None:
    (settings, runs), (_, others) = groups(SEEDS)
    assert settings == {"train.optimizer": "muon"}
    scores = [run["val"]["bits_per_byte"] for run in runs]
    assert f"{mean(scores):.4f} ± {stdev(scores):.4f}" in as_section([SEEDS])
    assert len(runs) == len(others) == 3


def test_what_is_missing_is_not_bold_and_what_differs_over_seeds_is_a_range() -> None:
    record = copy.deepcopy(SEEDS)
    for place, each in enumerate(record["runs"]):
        del each["test"]
        each["tokens"] += 1024 * place
    page = as_page(record, [])
    assert "****" not in page
    assert "| **409,600 to " in page


def test_the_difference_is_tested_by_welch() -> None:
    from scipy.stats import t

    best, second = ([r["val"]["bits_per_byte"] for r in runs] for _, runs in groups(SEEDS))
    variances = [stdev(scores) ** 2 / len(scores) for scores in (best, second)]
    statistic = (mean(second) - mean(best)) / math.sqrt(sum(variances))
    freedom = sum(variances) ** 2 / sum(v**2 / 2 for v in variances)
    p = 2 * t.sf(statistic, freedom)
    assert f"(Welch's t, two-sided, 3 and 3 seeds, p = {p:.2g})" in verdict(SEEDS)
    assert "a difference at the 5% level" in verdict(SEEDS)
    alike = copy.deepcopy(SEEDS)
    for run in alike["runs"]:
        run["val"]["bits_per_byte"] = 2 + 0.1 * run["settings"]["train.seed"]
    alike["runs"][0]["val"]["bits_per_byte"] -= 0.01
    assert "no difference shown at the 5% level" in verdict(alike)


def test_one_seed_each_is_said_and_equal_scores_are_not_tested() -> None:
    middle = make_record("lr", ["train.lr"], [(5e-4,), (1e-3,), (1e-4,)])
    assert verdict(middle).endswith("by one seed each.")
    same = copy.deepcopy(SEEDS)
    for run in same["runs"]:
        run["val"]["bits_per_byte"] = 2.0 + (run["settings"]["train.optimizer"] == "adamw")
    assert verdict(same).endswith("the seeds make no difference.")


def test_a_best_at_an_edge_of_three_numbers_is_said() -> None:
    assert verdict(LR).endswith(
        "by one seed each. `train.lr=0.001` is the largest tried: a better one may lie beyond."
    )
    assert "tried" not in verdict(GRID)  # of two numbers every one is at an edge
    words = [("gpt2", 1e-3), ("modern", 1e-2), ("canon", 3e-3)]  # each at its own rate: no grid
    assert "tried" not in verdict(make_record("a", ["model.architecture", "train.lr"], words))
    assert "tried" not in verdict(make_record("a", ["model.dropout"], [(0.0,), (0.1,), (0.2,)]))


def test_a_sweep_without_a_finished_run_has_tables_but_no_figures() -> None:
    record = copy.deepcopy(LR)
    record["runs"] = [{k: run[k] for k in ("name", "settings")} | FAILED for run in record["runs"]]
    assert draw_sweep(record, 50) == {}
    assert "No run is done." in as_page(record, [])
    assert as_csv(record).count(FAILED["error"]) == 3
    with pytest.raises(ReportError, match="no run of it is done"):
        best_run(record)


@pytest.mark.parametrize(
    ("record", "figures"),
    [
        (LR, {"loss.png", "params.png"}),
        (GRID, {"loss.png", "params.png", "heatmap.png"}),
        (SEEDS, {"loss.png", "params.png"}),
        (with_failure(GRID), {"loss.png", "params.png", "heatmap.png"}),
        (TOGETHER, {"loss.png"}),
        (make_record("alone", [], [()]), {"loss.png"}),
    ],
)
def test_figures_are_drawn_from_the_record_to_the_same_bytes(
    record: dict[str, Any], figures: set[str]
) -> None:
    drawn = draw_sweep(record, 50)
    assert drawn.keys() == figures | {name.replace(".", "-dark.") for name in figures}
    assert all(data.startswith(PNG) for data in drawn.values())
    assert draw_sweep(copy.deepcopy(record), 50) == drawn


PATHS = [f"/texts/of/many/kinds/and/lengths/shakespeare-{n}/plays.txt" for n in range(4)]


@pytest.mark.parametrize(
    "record",
    [
        make_record("paths", ["corpus.path"], [(path,) for path in PATHS]),
        make_record("many", ["train.seed_of"], [(n,) for n in range(40)]),
        make_record("words", ["model.kind"], [(f"kind-{n}",) for n in range(40)]),
        make_record("rates", ["train.lr"], [(1e-4 * 10 ** (n / 4.5),) for n in range(10)]),
        make_record("n" * 90, ["corpus.path", "train.lr"], [*itertools.product(PATHS, [1, 2])]),
    ],
    ids=["paths", "many", "words", "rates", "pairs"],
)
def test_labels_of_long_and_of_many_values_keep_apart_and_inside(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Figure] = []
    monkeypatch.setattr(grounds, "_png", lambda figure: seen.append(figure) or b"")
    draw_sweep(record, 50)
    assert len(seen) >= 4
    for figure in seen:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        width, height = canvas.get_width_height()
        for axes in figure.axes:
            box = axes.get_window_extent()
            assert box.width > width / 5
            assert box.height > height / 5
            assert axes.title.get_window_extent().x1 <= width
            for axis in (axes.xaxis, axes.yaxis):
                texts = axis.get_ticklabels()
                assert max(len(text.get_text()) for text in texts) <= 20
                boxes = [text.get_window_extent() for text in texts if text.get_text()]
                assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_labels_of_values_that_begin_and_end_alike_differ() -> None:
    assert len({*_short(PATHS)}) == len(PATHS)
    assert _short([1e-4 * 10 ** (1 / 3), "gpt2", 1e-4]) == ["0.0002154", "gpt2", "0.0001"]


def test_a_changed_score_changes_table_and_figures() -> None:
    changed = copy.deepcopy(LR)
    changed["runs"][1]["val"]["bits_per_byte"] += 0.01
    changed["runs"][1]["curve"][-1][2] += 0.5
    assert as_section([changed]) != as_section([LR])
    drawn, before = draw_sweep(changed, 50), draw_sweep(LR, 50)
    assert all(drawn[name] != before[name] for name in before)


def test_the_texts_of_the_runs_are_named_where_the_record_tells() -> None:
    assert "Trained on `own` (`cccccccccc`)." in as_page(LR, [])
    assert "from commit `bbbbbbbbbb`, on `own` (`cccccccccc`)." in as_section([LR])
    assert all(row["corpus_sha256"] == "c" * 64 for row in csv.DictReader(as_csv(LR).splitlines()))
    mixed, older = copy.deepcopy(LR), copy.deepcopy(LR)
    mixed["runs"][1]["corpus"] = {"name": "tinyshakespeare", "sha256": "d" * 64}
    assert "on `own` (`cccccccccc`) and `tinyshakespeare` (`dddddddddd`)." in as_section([mixed])
    for run in older["runs"]:
        del run["corpus"]
    assert "from commit `bbbbbbbbbb`." in as_section([older])
    assert "Trained on" not in as_page(older, [])


def test_several_sweeps_stand_below_each_other() -> None:
    section = as_section([GRID, LR, SEEDS])
    assert [f"**{name}**" in section for name in ("depth", "lr", "seeds")] == [True] * 3
    assert "reports/sweeps/lr/loss.png" in section
    assert as_section([]) == NONE_YET


@pytest.mark.parametrize("record", [TEXTS, FRACTIONS], ids=["texts", "fractions"])
def test_scores_of_other_val_texts_are_not_compared(record: dict[str, Any]) -> None:
    assert verdict(record) == "The runs' val texts differ, so their scores do not compare."
    assert "*" not in as_csv(record)
    page = as_page(record, [])
    assert "**" not in page
    assert verdict(record) in page
    assert draw_sweep(record, 50).keys() == {"loss.png", "loss-dark.png"}
    assert verdict({**record, "runs": record["runs"][:1]}).startswith("Best on val: ")
    with pytest.raises(ReportError, match="val texts differ, so none is the best; `dvc exp apply"):
        best_run(record)
