"""Command generate: text from a trained checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ParamsError
from pipeline.params import load_params


def generate(
    prompt: Annotated[
        str | None, typer.Option(help="Text to go on from; \\n is a new line, '' starts afresh.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to draw.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Below 1 is bolder; 0 takes the likeliest.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Likeliest tokens kept; 0: all.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed, the same text.")] = None,
    num_samples: Annotated[int | None, typer.Option(min=1, help="How many samples.")] = None,
    checkpoint: Annotated[Path, typer.Option(help="The model.")] = Path("data/checkpoints/best.pt"),
) -> None:
    """Draw text from a checkpoint; what is not given comes from `sample` in params.yaml.

    Example: python -m pipeline generate --prompt "BIANCA:\\n" --num-samples 3
    """
    params = load_params()
    asked = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "seed": seed,
        "num_samples": num_samples,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    settings = {**params.sample.model_dump(exclude={"prompt"}), **given}
    text = params.sample.prompt if prompt is None else prompt.replace("\\n", "\n")

    from pipeline.training import runtime as runtimes

    runtimes.prepare_process(params.train)
    from pipeline.corpus import tokenizers
    from pipeline.evaluation.sampling import generate as draw
    from pipeline.training.checkpoint import load_checkpoint

    model, loaded = load_checkpoint(checkpoint)
    runtime = runtimes.choose(params.train, model.config.block_size)
    model.to(runtime.device).set_attention(runtime.attention)
    tokenizer = tokenizers.from_json(loaded["tokenizer"], str(checkpoint))
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ParamsError(f"{checkpoint}: its tokenizer has another vocabulary than its model")
    ids = tokenizer.encode(text).tolist() or [tokenizer.eot_id]
    for number, new in enumerate(draw(model, ids, stop_id=tokenizer.eot_id, **settings), 1):
        if settings["num_samples"] > 1:
            print(f"--- sample {number} ---")
        print(text + tokenizer.decode(new))
