"""plan: what a training takes, for each size of GPT-2 and for params.yaml's own model."""

import math
from typing import Literal

import typer
from rich.table import Table

from pipeline.console import uncut_console
from pipeline.errors import ParamsError
from pipeline.params import SIZES, ModelParams, PrepareParams, load_params
from pipeline.paths import GIVEN_TOKENIZER, TOKENS
from pipeline.training.division import divide, share_of

GPT2_VOCAB, GPT2_CONTEXT = 50257, 1024
VOCABULARIES = {  # of the tokenizers that need no text, and of char about
    "gpt2": GPT2_VOCAB,
    "r50k_base": GPT2_VOCAB,
    "p50k_base": 50281,
    "cl100k_base": 100277,
    "o200k_base": 200019,
    "byte": 257,
    "char": 357,
}


# memory in GB, and TFLOP/s that training reaches in bf16: 40% of the data sheets' dense peaks, half
# as high in TF32, by which a GPU trains in fp32
DEVICES = {
    "cpu": (16.0, 0.1),
    "rtx4090": (24.0, 66.0),
    "a100": (80.0, 125.0),
    "h100": (80.0, 396.0),
    "h200": (141.0, 396.0),
}


def plan(
    device: Literal["cpu", "rtx4090", "a100", "h100", "h200"] = typer.Option(
        "h100", help="What each process computes on."
    ),
    nproc: list[int] = typer.Option(
        [],
        min=1,
        help="Processes, repeatable; default: 1, and the most up to 8 that divide a step.",
    ),
    tokens: float = typer.Option(
        0, min=0, help="Tokens to train on in all; 0: by params.yaml's max_steps."
    ),
    memory: float = typer.Option(0, min=0, help="GB of each process; 0: the device's."),
    tflops: float = typer.Option(0, min=0, help="TFLOP/s that a process reaches; 0: the device's."),
) -> None:
    """Estimate memory and time of each model size on so many devices, before paying for them.

    GPT-2's sizes have its vocabulary and 1,024 tokens of context; micro_batch_size,
    grad_accum_steps, optimizer and activation_checkpointing are those of params.yaml. Time is of
    computation alone: what processes send each other comes on top.

    Example: python -m pipeline plan --device a100 --nproc 1 --nproc 4
    """
    from pipeline.training.memory import Setting, peak_memory, planned, step_seconds

    params = load_params()
    train = params.train
    nproc = nproc or sorted({1, divide(train.sequences, 8)})
    for option, value in (("tokens", tokens), ("memory", memory), ("tflops", tflops)):
        if not math.isfinite(value):
            raise ParamsError(f"--{option}: found {value}; allowed: a number 0 or more")
    micro_batch = 8 if train.micro_batch_size == "auto" else train.micro_batch
    is_fp32 = train.precision == "fp32" or train.numerics == "portable"
    precision = "fp32" if is_fp32 else "bf16"
    most, reached = DEVICES[device]
    if is_fp32 and device != "cpu":
        reached /= 2
    most, reached = memory or most, tflops or reached
    models = {"params.yaml": (params.model, _own_vocab(params.prepare))}
    for name in SIZES:
        gpt2 = {"architecture": "gpt2", "size": name, "block_size": GPT2_CONTEXT, "bias": True}
        values = {**params.model.model_dump(), **gpt2}
        models[name] = ModelParams.model_validate(values), GPT2_VOCAB
    table = Table(
        title=f"{device}, {most:g} GB, {reached:g} TFLOP/s a process; {precision}, "
        f"{train.optimizer}, {train.sequences} sequences a step"
        + (", blocks recomputed" if train.activation_checkpointing else "")
    )
    for heading in ("model", "processes", "parallel", "parameters", "GB each", "fits"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for heading in ("ms a step", "tokens/s", "hours"):
        table.add_column(heading, justify="right")
    for name, (settings, vocab_size) in models.items():
        model = planned(settings, vocab_size)
        for processes in nproc:
            for parallel in ("none",) if processes == 1 else ("ddp", "fsdp"):
                share = share_of(train.sequences, processes)
                size = divide(share, micro_batch)
                setting = Setting(
                    size,
                    share // size,
                    processes,
                    parallel,
                    train.optimizer,
                    precision,
                    train.activation_checkpointing,
                    "cpu" if device == "cpu" else "cuda",
                )
                needed = peak_memory(model, setting) / 1e9
                seconds = step_seconds(model, setting, reached)
                per_step = share * processes * settings.block_size
                steps = tokens / per_step if tokens else train.max_steps
                table.add_row(
                    name,
                    str(processes),
                    parallel,
                    f"{model.count_parameters() / 1e6:,.1f} M",
                    f"{needed:,.1f}",
                    "yes" if needed <= most else "no",
                    f"{1000 * seconds:,.1f}",
                    f"{per_step / seconds:,.0f}",
                    f"{steps * seconds / 3600:,.2f}",
                )
    uncut_console().print(table)


def _own_vocab(prepare: PrepareParams) -> int:
    """Tokens of the vocabulary asked for; of characters as many as were prepared."""
    if prepare.tokenizer == "file":
        from pipeline.corpus.hf import read_tokenizer

        return read_tokenizer(GIVEN_TOKENIZER, "allowed: a tokenizer.json there").vocab_size
    if prepare.tokenizer == "char" and TOKENS.is_dir():
        from pipeline.corpus.token_file import read_meta

        found = read_meta(TOKENS)["tokenizer"]
        if found["kind"] == "char":
            return int(found["vocab_size"])
    return VOCABULARIES.get(prepare.tokenizer, prepare.vocab_size)
