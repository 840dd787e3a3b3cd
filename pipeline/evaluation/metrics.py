"""What reports/metrics.json and data/evaluation hold, computed from best.pt and the tokens."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus import tokenizers
from pipeline.corpus.token_file import load_split
from pipeline.corpus.token_stream import PART
from pipeline.corpus.tokenizers import Tokenizer
from pipeline.errors import CheckpointError
from pipeline.evaluation import baselines
from pipeline.evaluation.perplexity import Score, perplexity, score_split
from pipeline.evaluation.sampling import Strategy, as_set, compared_strategies, generate, prompt_ids
from pipeline.evaluation.token_loss import hardest_and_easiest
from pipeline.model.gpt import GPT
from pipeline.params import Params, SampleParams
from pipeline.paths import (
    BEST,
    EVALUATION_RUN,
    GENERATED,
    LAST,
    RUN,
    STRATEGIES,
    TOKEN_LOSSES,
    TOKENIZER,
    TOKENS,
)
from pipeline.storage import read_json
from pipeline.training.checkpoint import load_checkpoint, read_checkpoint
from pipeline.training.runtime import place

LAST_STEPS = 100  # of the mean training loss at the end
STRATEGY_TOKENS = 100  # most, of each strategy's text


class Evaluation(NamedTuple):
    """The values of metrics.json, the text of positions.csv, the values of the other files."""

    metrics: dict[str, Any]
    positions: str
    others: dict[Path, Any]


def compute(params: Params) -> Evaluation:
    """Score best.pt on all of val and test and draw its samples; the process is prepared."""
    model, best = load_checkpoint(BEST)
    runtime = place(model, params.train)
    tokenizer = tokenizers.from_json(best["tokenizer"], BEST.name)
    check_tokenizer(BEST.name, tokenizer, "the tokens that it was trained on; `dvc repro`")

    def score(name: str, overlap: float) -> Score:
        size = params.evaluate.batch_size
        return score_split(model, splits[name], overlap=overlap, batch_size=size, name=name)

    splits = {name: load_split(TOKENS, name).tokens[:] for name in ("val", "test")}
    train = load_split(TOKENS, "train").tokens[-baselines.MOST_TOKENS :]
    metrics: dict[str, Any] = {}
    for name in ("val", "test"):
        if name == "test" and len(splits[name]) == 0:
            continue  # prepare.test_fraction is 0
        whole = score(name, params.evaluate.overlap)
        text_bytes = tokenizer.text_size(splits[name][1:])
        metrics[name] = {
            "loss": whole.loss,
            "perplexity": whole.perplexity,
            "bits_per_byte": whole.bits_per_byte(text_bytes),
            "targets": whole.targets,
            "bytes": text_bytes,
        }
        held_out, by_token = name, hardest_and_easiest(whole, tokenizer)
    metrics["train"] = _training_facts(read_checkpoint(LAST), best)
    metrics["train"]["parameters"] = model.count_parameters()
    metrics["train"] |= _before_training(best["best_loss"])
    metrics["baselines"] = _baselines(train, splits[held_out], tokenizer)

    blocks = score(held_out, 0.0)  # without overlap every position is scored as often
    means = blocks.position_nats / blocks.position_targets.clip(min=1)
    rows = [f"{place},{mean!r}" for place, mean in enumerate(means.tolist(), 1)]
    positions = "\n".join(["position,loss", *rows]) + "\n"

    others = {
        TOKEN_LOSSES: {"split": held_out, **by_token},
        GENERATED: _generated(model, tokenizer, params.sample),
        STRATEGIES: _by_strategy(model, tokenizer, params.sample),
        EVALUATION_RUN: {"runtime": runtime.fingerprint()},
    }
    return Evaluation(metrics, positions, others)


def _generated(model: GPT, tokenizer: Tokenizer, sample: SampleParams) -> list[dict[str, Any]]:
    """The samples that params.yaml asks for, with the settings that shape them."""
    strategy = as_set(sample)
    prompt = prompt_ids(tokenizer, sample.prompt)
    drawn = generate(
        model,
        prompt,
        **asdict(strategy),
        max_new_tokens=sample.max_new_tokens,
        seed=sample.seed,
        num_samples=sample.num_samples,
        stop_id=tokenizer.eot_id,
    )
    neutral = asdict(Strategy())
    settings = {
        name: value
        for name, value in asdict(strategy).items()
        if name in ("temperature", "top_k") or value != neutral[name]
    }
    return [
        {
            "prompt": sample.prompt,
            "settings": {**settings, "seed": sample.seed, "sample": number},
            "text": tokenizer.decode(prompt + ids),
        }
        for number, ids in enumerate(drawn, 1)
    ]


def _by_strategy(model: GPT, tokenizer: Tokenizer, sample: SampleParams) -> list[dict[str, Any]]:
    """A short text of each strategy that `generate --compare` shows, same prompt and seed."""
    prompt = prompt_ids(tokenizer, sample.prompt)
    most_tokens = min(STRATEGY_TOKENS, sample.max_new_tokens)
    texts = []
    for name, strategy in compared_strategies(as_set(sample)).items():
        (ids,) = generate(
            model,
            prompt,
            **asdict(strategy),
            max_new_tokens=most_tokens,
            seed=sample.seed,
            stop_id=tokenizer.eot_id,
        )
        text = tokenizer.decode(prompt + ids)
        texts.append({"strategy": name, "most_tokens": most_tokens, "text": text})
    return texts


def check_tokenizer(checkpoint: str, tokenizer: Tokenizer, allowed: str) -> None:
    """Tokens of another vocabulary would have a loss too, and it would say nothing."""
    prepared = tokenizers.load(TOKENIZER)
    if not prepared.same_ids(tokenizer):
        raise CheckpointError(
            f"{checkpoint}: its tokenizer ({tokenizer.kind}, {tokenizer.vocab_size} tokens) is "
            f"not that of data/tokens ({prepared.kind}, {prepared.vocab_size} tokens); "
            f"allowed: {allowed}"
        )


def _before_training(best_val_loss: float) -> dict[str, float]:
    """What the pretrained weights reached on the same val windows, beside the fine-tuned ones."""
    run = read_json(RUN, CheckpointError, "run train")
    if "init_from" not in run:
        return {}
    initial = run["init_from"]["val_loss"]
    return {
        "initial_val_loss": initial,
        "initial_val_perplexity": perplexity(initial),
        "best_val_perplexity": perplexity(best_val_loss),
    }


def _training_facts(last: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    losses, rows = last["history"]["losses"], last["history"]["rows"]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    return {
        "steps": last["step"],
        "tokens": rows["tokens"][-1],
        "final_loss": losses[-1],
        "best_loss": losses[lowest],
        "best_loss_step": lowest + 1,
        "mean_loss_last_100": sum(losses[-LAST_STEPS:]) / len(losses[-LAST_STEPS:]),
        "best_val_loss": best["best_loss"],
        "best_step": best["step"],
    }


def _baselines(
    train: NDArray[np.integer], held_out: NDArray[np.integer], tokenizer: Tokenizer
) -> dict[str, dict[str, float]]:
    """Bits per byte of simpler models on the held-out split."""

    def text(ids: NDArray[np.integer]) -> bytes:
        parts = (ids[n : n + PART] for n in range(0, len(ids), PART))
        return b"".join(b"".join(map(tokenizer.token_bytes, part.tolist())) for part in parts)

    size, plain = tokenizer.vocab_size, text(held_out[1:])
    most = baselines.XZ_MOST_BYTES  # a token has at least one byte, but for the separator
    bits = {
        "uniform": baselines.uniform_bits(len(held_out) - 1, size),
        "unigram": baselines.unigram_bits(train, held_out, size),
        "bigram": baselines.bigram_bits(train, held_out, size),
        "xz": baselines.xz_bits(plain),
        "xz_after_train": baselines.xz_bits(plain, after=text(train[-most:])),
    }
    return {name: {"bits_per_byte": value / len(plain)} for name, value in bits.items()}
