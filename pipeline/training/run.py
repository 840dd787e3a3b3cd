"""One process's run, from params.yaml and data/tokens to data/checkpoints.

pipeline/train.py starts it, once the process is prepared: this module imports torch.
"""

import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from pipeline.corpus import tokenizers
from pipeline.corpus.batches import Batches, check_length
from pipeline.corpus.token_file import load_split
from pipeline.corpus.token_stream import TokenStream
from pipeline.corpus.tokenizers import Tokenizer
from pipeline.errors import CheckpointError, FetchError, UserError
from pipeline.evaluation.perplexity import score_split
from pipeline.evaluation.sampling import generate, prompt_ids
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.pretrained import load_pretrained, start_from
from pipeline.params import Params
from pipeline.paths import (
    CHECKPOINTS,
    HISTORY,
    META,
    RUN,
    SAMPLES_ON_THE_WAY,
    TOKENIZER,
    TOKENS,
)
from pipeline.processes import stop_on_signals
from pipeline.randomness import seed_for
from pipeline.storage import sha256_file, write_json
from pipeline.training.loop import Hooks, Interrupted, Outputs, Trainer, fit
from pipeline.training.micro_batch import AUTO_ON_CPU
from pipeline.training.progress import Show
from pipeline.training.ranks import Ranks, call_at_end_of_starter
from pipeline.training.resume import Facts, ResumeState
from pipeline.training.runtime import Runtime, choose

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def run(params: Params, ranks: Ranks, threads: int) -> None:
    """Train, and write what the stage writes; of several processes, its part of it.

    params: with the CPU threads of this process; threads: those of all of them on this machine.
    """
    tokenizer, train_tokens, val_tokens = _read_tokens(params)
    model, init_from = _starting_model(params, tokenizer)
    batches = Batches(
        train_tokens,
        params.model.block_size,
        params.train.sequences,
        params.train.batch_order,
        params.train.seed,
        stride=params.train.stride,
        max_seq_len=params.train.max_seq_len,
        eot_id=tokenizer.eot_id,
    )
    tokens_per_step = batches.sequences_per_step * batches.block_size
    flops = float(model.flops_per_token() * tokens_per_step * params.train.max_steps)
    runtime = choose(params.train, params.model, flops)
    ranks.start(runtime.device, params.train.parallel)
    # the first's: another machine's would be its own, and all share the folder
    decides = ranks.from_first(_what_decides(params, threads, runtime, init_from))
    resume = ResumeState(decides, ranks.first)
    if params.train.parallel != "fsdp":  # which brings each part there itself
        model.to(runtime.device)
    trainer = Trainer(
        model,
        batches,
        params.train,
        runtime,
        tokenizer.to_json(),
        ranks,
        pretrained=init_from is not None,
    )
    show = Show(params.train.max_steps, quiet=not ranks.first)
    _announce(trainer, params, len(train_tokens), show)
    if ranks.first:  # of a run before, where DVC has not removed it
        left = (*CHECKPOINTS.glob("*.pt"), *CHECKPOINTS.glob(".*.tmp"))  # of a save that was killed
        for path in (*left, RUN, SAMPLES_ON_THE_WAY):
            path.unlink(missing_ok=True)
    _take_up(trainer, resume, show)
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    stopping = stop_on_signals(STOP_SIGNALS)
    call_at_end_of_starter(lambda: stopping.append(signal.SIGTERM))
    hooks = _hooks(params, tokenizer, val_tokens, runtime, show, stopping)
    outputs = Outputs(CHECKPOINTS, HISTORY, SAMPLES_ON_THE_WAY)
    try:
        with show:
            fit(trainer, hooks, outputs, resume, params.log.save_interval)
    except Interrupted as stopped:
        show.line(f"stopped at step {trainer.step}; {stopped}")
        raise typer.Exit(130) from None
    except Exception as error:
        if isinstance(error, UserError) or not stopping:
            if ranks.first and trainer.best_loss is None and not trainer.kept:
                for path in (HISTORY, SAMPLES_ON_THE_WAY):  # no result: that of before comes back
                    path.unlink(missing_ok=True)
                with suppress(OSError):  # of files that are not of this run
                    CHECKPOINTS.rmdir()
            raise
        # Ctrl-C reaches what a step has started too: the compiler of a first one
        begun = f"in step {trainer.step}, before its end" if trainer.step else "before step 1"
        show.line(f"stopped {begun}: {type(error).__name__}")
        raise typer.Exit(130) from None
    if not ranks.first:
        return
    write_json(RUN, _facts(params, trainer, flops, init_from))
    resume.remove()
    show.line(
        f"done at step {trainer.step} ({trainer.stopped}): best val loss "
        f"{trainer.best_loss:.4f} at step {trainer.best_step}"
    )


def _read_tokens(params: Params) -> tuple[Tokenizer, TokenStream, TokenStream]:
    """What prepare made: tokenizer, train and val, long enough for the context."""
    val, test = (load_split(TOKENS, split).tokens for split in ("val", "test"))
    check_length(val, params.model.block_size, "val")
    if len(test):  # evaluate would find it too late
        check_length(test, params.model.block_size, "test")
    return tokenizers.load(TOKENIZER), load_split(TOKENS, "train").tokens, val


def _starting_model(params: Params, tokenizer: Tokenizer) -> tuple[GPT, dict[str, Any] | None]:
    """The model before the first step, and what its weights were taken from, if from anywhere."""
    shape = params.model.model_dump(exclude={"size"})
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape))
    init_from = None
    if params.train.init_from == "scratch":
        model.initialise(seed_for(params.train.seed, "initialise"))
    else:
        try:
            pretrained = load_pretrained(params.train.init_from)
        except (CheckpointError, FetchError) as error:
            raise type(error)(f"train.init_from: {error}") from None
        model = start_from(model, pretrained, tokenizer)
        init_from = pretrained.facts()
    if params.train.freeze_layers:
        model.freeze(params.train.freeze_layers)
    return model, init_from


def _what_decides(
    params: Params, threads: int, runtime: Runtime, init_from: dict[str, Any] | None
) -> Facts:
    """All that decides the run's bytes, by which an interrupted one is known again."""
    platform = {**runtime.fingerprint(), "threads": threads}
    platform.pop("threads_apart", None)  # follows from the rest, but for the number of processes
    if runtime.device == "cuda" and params.train.parallel != "fsdp":  # whose samples a CPU draws
        del platform["threads"]
    return {
        "data": {"tokens": sha256_file(META)},
        "model": params.model.model_dump(),
        # another number of processes changes bytes, but a run may go on with it
        "train": params.train.model_dump(exclude={"nproc", "threads"}),
        "init_from": init_from or {},
        "platform": platform,
        "code": _loaded_code(),
    }


def _loaded_code() -> dict[str, str]:
    """{module: sha256} of the project's code that this process has loaded to train."""
    modules = {
        name: str(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "pipeline" and name != "pipeline.__main__"
    }
    return {name: sha256_file(Path(file)) for name, file in modules.items()}


def _announce(trainer: Trainer, params: Params, train_tokens: int, show: Show) -> None:
    """The lines before the first step: how it computes, and how much."""
    settings, model, ranks, batches = params.train, trainer.model, trainer.ranks, trainer.batches
    several = f", {ranks.size} processes ({settings.parallel})" if ranks.size > 1 else ""
    show.line(f"{trainer.runtime.describe()}{several}")
    if settings.warmup_steps > settings.max_steps:
        show.line(
            f"note: train.warmup_steps ({settings.warmup_steps}) is more than train.max_steps "
            f"({settings.max_steps}): the rate ends at "
            f"{settings.max_steps / settings.warmup_steps:.0%} of train.lr"
        )
    up_to = "up to " if settings.batch_order == "documents" else ""
    show.line(
        f"{model.count_parameters():,} parameters, {model.flops_per_token():,} FLOPs per token, "
        f"{up_to}{batches.sequences_per_step * batches.block_size:,} tokens per step, "
        f"{train_tokens:,} train tokens"
    )


def _take_up(trainer: Trainer, resume: ResumeState, show: Show) -> None:
    """Go on from the newest whole state, where an interrupted run has left one."""
    ranks = trainer.ranks
    state, damaged = resume.load(CHECKPOINTS) if ranks.first else (None, [])
    for line in damaged:
        show.line(f"warning: {line}")
    step = ranks.from_first(state["step"] if state else 0)
    if not step:
        other = resume.other() if ranks.first else None
        if other:
            show.line(f"note: {other}")
        return
    state = state or resume.read(step)
    trainer.load_state(state, resume.shards(step))
    show.line(f"going on from step {step}")
    if state["processes"] != ranks.size:
        show.line(
            f"its state is of {state['processes']} processes, now there are {ranks.size}: the "
            "same training, but the bytes will differ from those of one number throughout"
        )


def _hooks(
    params: Params,
    tokenizer: Tokenizer,
    val_tokens: TokenStream,
    runtime: Runtime,
    show: Show,
    stopping: list[int],
) -> Hooks:
    """What the loop asks: looks at val, samples, lines to show, whether a signal came."""
    auto = params.train.micro_batch_size == "auto"
    val_batch_size = AUTO_ON_CPU if auto else params.train.micro_batch

    def validate(model: GPT) -> float:
        return score_split(
            model,
            val_tokens,
            overlap=0.0,
            batch_size=val_batch_size,
            autocast=runtime.autocast,
            name="val",
            most_windows=params.train.eval_batches * val_batch_size,
        ).loss

    def sample(model: GPT, step: int) -> str:
        prompt = prompt_ids(tokenizer, params.train.sample_prompt)
        (ids,) = generate(
            model,
            prompt,
            max_new_tokens=params.train.sample_tokens,
            temperature=0.8,
            top_k=50,
            seed=seed_for(params.train.seed, "sample", step),
        )
        return tokenizer.decode(prompt + ids)

    return Hooks(validate, sample, show.step, show.line, lambda: bool(stopping))


def _facts(
    params: Params,
    trainer: Trainer,
    flops: float,
    init_from: dict[str, Any] | None,
) -> dict[str, Any]:
    """What run.json says of a finished run: model, platform, samples on the way."""
    model, counts = trainer.model, trainer.process_counts
    fingerprint: dict[str, Any] = {**trainer.runtime.fingerprint()}
    if counts != [1] or params.train.parallel == "fsdp":
        processes = counts[0] if len(counts) == 1 else counts
        fingerprint |= {"processes": processes, "parallel": params.train.parallel}
    if params.train.micro_batch_size == "auto":
        fingerprint["micro_batch_size"] = trainer.micro_batch_size
    facts = {
        "model": {
            **asdict(model.config),
            "parameters": model.count_parameters(),
            "flops_per_token": model.flops_per_token(),
        },
        "runtime": fingerprint,
        "flops": flops,
        "stopped": trainer.stopped,
        "samples": trainer.samples,
    }
    if init_from is not None:
        facts["init_from"] = {**init_from, "val_loss": trainer.initial_loss}
    return facts
