"""Proves that evaluate draws its samples as params.yaml says, and a text of every strategy, and
that what it cannot score is one line."""

import json
import math
import re
from pathlib import Path

import pytest
from tiny_project import run, set_params

from pipeline.evaluation.metrics import _training_facts
from pipeline.evaluation.sampling import Strategy, compared_strategies

EVALUATION = Path("data/evaluation")


def test_samples_obey_every_setting_as_generate_does(finished: Path) -> None:
    set_params(finished, sample__top_p=0.6, sample__repetition_penalty=1.5, sample__min_p=0.01)
    run(finished, "python", "-m", "pipeline", "evaluate")
    generated = json.loads((finished / EVALUATION / "generated.json").read_text())
    assert generated[0]["settings"] == {
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.6,
        "min_p": 0.01,
        "repetition_penalty": 1.5,
        "seed": 1337,
        "sample": 1,
    }
    run(finished, "python", "-m", "pipeline", "generate", "--output", "drawn.txt")
    drawn = (finished / "drawn.txt").read_bytes().decode()
    blocks = "".join(
        f"--- sample {n}, seed {1336 + n} ---\n{sample['text']}\n"
        for n, sample in enumerate(generated, 1)
    )
    assert drawn == blocks


def test_every_strategy_has_a_text(finished: Path) -> None:
    strategies = json.loads((finished / EVALUATION / "strategies.json").read_text())
    assert [each["strategy"] for each in strategies] == [*compared_strategies(Strategy())]
    generated = json.loads((finished / EVALUATION / "generated.json").read_text())
    texts = {each["strategy"]: each["text"] for each in strategies}
    assert texts["as set"] == generated[0]["text"]
    assert len(set(texts.values())) > 3


def test_the_bytes_of_a_score_are_those_of_its_targets_the_first_token_being_none(
    finished: Path,
) -> None:
    metrics = json.loads((finished / "reports/metrics.json").read_text())
    splits = json.loads((finished / "data/tokens/meta.json").read_text())["splits"]
    for name in ("val", "test"):
        found, held = metrics[name], splits[name]
        assert found["targets"] == held["tokens"] - 1
        assert found["bytes"] == held["bytes"] - 1  # a byte is a token
        bits = found["loss"] * found["targets"] / math.log(2) / found["bytes"]
        assert math.isclose(found["bits_per_byte"], bits, rel_tol=1e-9)


def test_training_is_told_by_its_last_step_and_its_best_by_the_best_checkpoint() -> None:
    losses = [5.0, *[2.0] * 99, 3.0, 1.0, 4.0]
    history = {"losses": losses, "rows": {"tokens": [100, 206]}}
    last = {"step": 103, "best_loss": 8.0, "history": history}
    assert _training_facts(last, {"step": 60, "best_loss": 7.0}) == {
        "steps": 103,
        "tokens": 206,
        "final_loss": 4.0,
        "best_loss": 1.0,
        "best_loss_step": 102,
        "mean_loss_last_100": (97 * 2.0 + 3.0 + 1.0 + 4.0) / 100,
        "best_val_loss": 7.0,
        "best_step": 60,
    }


def test_tokens_that_the_checkpoint_does_not_know_are_refused(finished: Path) -> None:
    metrics = (finished / "reports/metrics.json").read_bytes()
    set_params(finished, prepare__tokenizer="char")
    run(finished, "python", "-m", "pipeline", "prepare")
    done = run(finished, "python", "-m", "pipeline", "evaluate", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: best.pt: its tokenizer (byte, 257 tokens) is not that of")
    assert done.stderr.count("\n") == 1
    assert (finished / "reports/metrics.json").read_bytes() == metrics


@pytest.mark.parametrize(("name", "found"), [("a.jsonl", ".jsonl"), ("data", "a folder")])
def test_what_is_no_plain_text_is_refused(finished: Path, name: str, found: str) -> None:
    (finished / "a.jsonl").write_text('{"text": "the king"}')
    command = ("python", "-m", "pipeline", "evaluate", "--text", name)
    done = run(finished, *command, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}: --text: found {found}; allowed: plain text (")


@pytest.mark.parametrize(("command", "split", "high"), [
    ("evaluate", "val", 0), ("evaluate", "train", 0xFF), ("inspect", "test", 0xFF),
    ("train", "train", 0),
])  # fmt: skip
def test_tokens_that_were_changed_are_refused(
    finished: Path, command: str, split: str, high: int
) -> None:
    path = finished / f"data/tokens/{split}.bin"
    ids = bytearray(path.read_bytes())
    ids[-2] ^= 1
    ids[-1] |= high  # beyond the vocabulary
    path.unlink()
    path.write_bytes(ids)
    results = [finished / "reports/metrics.json", finished / "data/checkpoints/best.pt"]
    before = [result.read_bytes() for result in results]
    refused = run(finished, "python", "-m", "pipeline", command, check=False)
    assert refused.returncode == 2
    found = "found id " if high else "found sha256 "
    assert refused.stderr.startswith(f"error: data/tokens/{split}.bin: {found}")
    assert [result.read_bytes() for result in results] == before


def test_an_empty_text_is_refused(finished: Path) -> None:
    (finished / "empty.txt").touch()
    command = ("python", "-m", "pipeline", "evaluate", "--text", "empty.txt")
    done = run(finished, *command, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: empty.txt: --text: found nothing; allowed: a file with text\n"


def test_a_name_in_brackets_is_shown_as_it_is(finished: Path) -> None:
    (finished / "[red]x.txt").write_text("the king and the queen of the night")
    done = run(finished, "python", "-m", "pipeline", "evaluate", "--text", "[red]x.txt")
    assert "[red]x.txt" in done.stdout


def test_a_text_of_one_long_word_has_no_finite_word_perplexity(finished: Path) -> None:
    (finished / "zh.txt").write_text("\ufeff" + "红楼梦里的人物很多。" * 100, encoding="utf-8")
    done = run(finished, "python", "-m", "pipeline", "evaluate", "--text", "zh.txt")
    assert "inf" in done.stdout
    assert "3,000" in done.stdout, "a byte-order mark is no text"


def test_a_test_split_that_is_too_short_is_found_before_training(finished: Path) -> None:
    set_params(finished, prepare__test_fraction=0.002)
    for stage in ("fetch", "prepare"):
        run(finished, "python", "-m", "pipeline", stage)
    refused = run(finished, "python", "-m", "pipeline", "train", check=False)
    assert refused.returncode == 2
    assert re.fullmatch(
        r"error: test split: found \d+ tokens; allowed: at least model\.block_size \+ 1 \(17\): "
        r"more text or a larger prepare\.test_fraction\n",
        refused.stderr,
    )
