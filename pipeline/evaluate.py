"""Stage evaluate: data/checkpoints, data/tokens -> reports/metrics.json, data/evaluation."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.errors import CheckpointError, CorpusError
from pipeline.params import Params, SampleParams, load_params
from pipeline.storage import read_json, write_json, write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.corpus.tokenizers import Tokenizer
    from pipeline.evaluation.perplexity import Score
    from pipeline.model.gpt import GPT

TOKENS = Path("data/tokens")
CHECKPOINTS = Path("data/checkpoints")
EVALUATION = Path("data/evaluation")
METRICS = Path("reports/metrics.json")
LAST_STEPS = 100  # of the mean training loss at the end
STRATEGY_TOKENS = 100  # most, of each strategy's text
PART = 1 << 20  # tokens whose bytes are joined at a time: memory


def evaluate(
    checkpoint: Annotated[
        str, typer.Option(help="Score this instead, and write nothing: gpt2, a file or a folder.")
    ] = "",
    text: Annotated[
        Path | None, typer.Option(help="Score this text file instead of the splits.")
    ] = None,
) -> None:
    """Score best.pt on all of val and test, each target once, and draw its samples.

    Writes reports/metrics.json, and to data/evaluation the loss by position and by token and the
    samples.
    Computed in fp32, whatever the training's precision. With --checkpoint or --text it only
    prints: the model may come from anywhere, and needs no training.

    Example: python -m pipeline evaluate --checkpoint gpt2 --text book.txt
    """
    params = load_params()
    if checkpoint or text:
        _only_print(params, checkpoint or str(CHECKPOINTS / "best.pt"), text)
        return
    metrics, positions, values = compute(params)
    write_text(EVALUATION / "positions.csv", positions)
    for name, value in values.items():
        write_json(EVALUATION / name, value)
    write_json(METRICS, metrics)
    table = Table("split", "loss", "perplexity", "bits per byte")
    for name in ("val", "test"):
        if name in metrics:
            values = metrics[name]
            numbers = (values["loss"], values["perplexity"], values["bits_per_byte"])
            table.add_row(name, *(f"{number:.4f}" for number in numbers))
    Console().print(table)


def compute(params: Params) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """From best.pt: metrics.json's values, positions.csv's text, {file: values} of the others."""
    from pipeline.training import runtime as runtimes

    runtimes.prepare_process(params.train)
    from contextlib import nullcontext

    import numpy as np

    from pipeline.corpus import tokenizers
    from pipeline.corpus.token_file import load_split
    from pipeline.evaluation.baselines import MOST_TOKENS
    from pipeline.evaluation.perplexity import score_split
    from pipeline.evaluation.token_loss import hardest_and_easiest
    from pipeline.training.checkpoint import load_checkpoint, read_checkpoint

    model, best = load_checkpoint(CHECKPOINTS / "best.pt")
    runtime = runtimes.choose(params.train, model.config.block_size)
    model.to(runtime.device).set_attention(runtime.attention)
    tokenizer = tokenizers.from_json(best["tokenizer"], "best.pt")
    _same_tokenizer("best.pt", tokenizer, "the tokens that it was trained on; `dvc repro`")

    def score(name: str, overlap: float) -> "Score":
        return score_split(
            model,
            splits[name],
            overlap=overlap,
            batch_size=params.evaluate.batch_size,
            autocast=nullcontext,
            name=name,
        )

    splits = {name: load_split(TOKENS, name).tokens[:] for name in ("val", "test")}
    train = load_split(TOKENS, "train").tokens[-MOST_TOKENS:]
    token_sizes = np.array([len(tokenizer.token_bytes(n)) for n in range(tokenizer.vocab_size)])
    metrics: dict[str, Any] = {}
    for name in ("val", "test"):
        if name == "test" and len(splits[name]) == 0:
            continue  # prepare.test_fraction is 0
        whole = score(name, params.evaluate.overlap)
        text_bytes = int(token_sizes[splits[name][1:]].sum())
        metrics[name] = {
            "loss": whole.loss,
            "perplexity": whole.perplexity,
            "bits_per_byte": whole.bits_per_byte(text_bytes),
            "targets": whole.targets,
            "bytes": text_bytes,
        }
        held_out, by_token = name, hardest_and_easiest(whole, tokenizer)
    metrics["train"] = _training_facts(read_checkpoint(CHECKPOINTS / "last.pt"), best)
    metrics["train"]["parameters"] = model.count_parameters()
    metrics["train"] |= _before_training(best["best_loss"])
    metrics["baselines"] = _baselines(train, splits[held_out], tokenizer)

    blocks = score(held_out, 0.0)  # without overlap every position is scored as often
    means = blocks.position_nats / blocks.position_targets.clip(min=1)
    rows = [f"{place},{mean!r}" for place, mean in enumerate(means.tolist(), 1)]
    positions = "\n".join(["position,loss", *rows]) + "\n"

    values = {
        "tokens.json": {"split": held_out, **by_token},
        "generated.json": _generated(model, tokenizer, params.sample),
        "strategies.json": _by_strategy(model, tokenizer, params.sample),
    }
    return metrics, positions, values


def _generated(model: "GPT", tokenizer: "Tokenizer", sample: SampleParams) -> list[dict[str, Any]]:
    """The samples that params.yaml asks for, with the settings that shape them."""
    from pipeline.evaluation.sampling import Strategy, as_set, generate, prompt_ids

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


def _by_strategy(
    model: "GPT", tokenizer: "Tokenizer", sample: SampleParams
) -> list[dict[str, Any]]:
    """A short text of each strategy that `generate --compare` shows, same prompt and seed."""
    from pipeline.evaluation.sampling import as_set, compared_strategies, generate, prompt_ids

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


def _only_print(params: Params, checkpoint: str, text: Path | None) -> None:
    """The scores of any model on the splits, or on a text that starts after <|endoftext|>."""
    from pipeline.training import runtime as runtimes

    runtimes.prepare_process(params.train)
    from contextlib import nullcontext

    import numpy as np

    from pipeline.corpus.token_file import load_split
    from pipeline.evaluation.perplexity import score_split
    from pipeline.model.pretrained import load_pretrained

    pretrained = load_pretrained(checkpoint)
    model, tokenizer = pretrained.model, pretrained.load_tokenizer()
    runtime = runtimes.choose(params.train, model.config.block_size)
    model.to(runtime.device).set_attention(runtime.attention)
    words = 0
    if text is not None:
        written = _read_text(text)
        words = len(written.split())
        tokens = {text.name: np.concatenate(([tokenizer.eot_id], tokenizer.encode(written)))}
    else:
        _same_tokenizer(checkpoint, tokenizer, "--text FILE, or the same prepare.tokenizer")
        splits = {name: load_split(TOKENS, name).tokens[:] for name in ("val", "test")}
        tokens = {name: ids for name, ids in splits.items() if len(ids)}
    table = Table("text", "targets", "loss", "perplexity", "bits per byte")
    if words:
        table.add_column("word perplexity")
    for name, ids in tokens.items():
        score = score_split(
            model,
            ids,
            overlap=params.evaluate.overlap,
            batch_size=params.evaluate.batch_size,
            autocast=nullcontext,
            name=name,
            block_size=max(1, min(model.config.block_size, len(ids) - 1)),
        )
        text_bytes = sum(len(tokenizer.token_bytes(n)) for n in ids[1:].tolist())
        numbers = [score.loss, score.perplexity, score.bits_per_byte(text_bytes)]
        if words:  # nats of a text without spaces are of one long word
            per_word = score.nats / words
            numbers.append(math.exp(per_word) if per_word < 700 else math.inf)
        table.add_row(name, f"{score.targets:,}", *(f"{number:.4f}" for number in numbers))
    Console().print(table)


def _same_tokenizer(checkpoint: str, tokenizer: "Tokenizer", allowed: str) -> None:
    """Tokens of another vocabulary would have a loss too, and it would say nothing."""
    from pipeline.corpus import tokenizers

    prepared = tokenizers.load(TOKENS / "tokenizer.json")
    if prepared.sha256 != tokenizer.sha256:
        raise CheckpointError(
            f"{checkpoint}: its tokenizer ({tokenizer.kind}, {tokenizer.vocab_size} tokens) is "
            f"not that of data/tokens ({prepared.kind}, {prepared.vocab_size} tokens); "
            f"allowed: {allowed}"
        )


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None
    text = text.removeprefix("\ufeff")
    if not text:
        raise CorpusError(f"{path}: --text: found nothing; allowed: a file with text")
    return text


def _before_training(best_val_loss: float) -> dict[str, float]:
    """What the pretrained weights reached on the same val windows, beside the fine-tuned ones."""
    from pipeline.evaluation.perplexity import perplexity

    run = read_json(CHECKPOINTS / "run.json", CheckpointError, "run train")
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
    train: "NDArray[np.integer]", held_out: "NDArray[np.integer]", tokenizer: "Tokenizer"
) -> dict[str, dict[str, float]]:
    """Bits per byte of simpler models on the held-out split."""
    from pipeline.evaluation import baselines

    def text(ids: "NDArray[np.integer]") -> bytes:
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
