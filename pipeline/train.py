"""Stage train: data/tokens -> data/checkpoints, reports/train.csv, reports/samples.txt."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.errors import CheckpointError, FetchError, TrainingError
from pipeline.params import Params, load_params
from pipeline.processes import call_at_end_of_parent, stop_on_signals
from pipeline.storage import sha256_file, sha256_json, write_json

if TYPE_CHECKING:
    from pipeline.training.loop import Trainer

TOKENS = Path("data/tokens")
CHECKPOINTS = Path("data/checkpoints")
TRAIN_CSV = Path("reports/train.csv")
SAMPLES_TXT = Path("reports/samples.txt")
LOG = Path(".cache/train.log")

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator")  # in what torch says
SECONDS_BETWEEN_LINES = 15.0  # where the output is no terminal


def train() -> None:
    """Train the model that params.yaml describes on data/tokens.

    Writes best.pt (lowest val loss), last.pt and run.json to data/checkpoints, and while it runs
    reports/train.csv, reports/samples.txt and .cache/train.log. Interrupted, it goes on where it
    stopped when started again, and ends in the same bytes.

    Example: dvc exp run -S train.lr=1e-3
    """
    params = load_params()
    from pipeline.training.ranks import under_torchrun

    if params.train.nproc != 1 and not under_torchrun():
        _train_by_several(params)
        return
    try:
        _train(params)
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise TrainingError(
            f"out of memory: lower train.micro_batch_size (now {params.train.micro_batch_size}) "
            "and raise train.grad_accum_steps as much, or set train.activation_checkpointing: "
            "true; then lower model.block_size, model.n_layer or model.n_embd"
        ) from None


def _train(params: Params) -> None:
    """The run of this process, which may be one of several."""
    from pipeline.training import runtime as runtimes
    from pipeline.training.ranks import Ranks

    ranks = Ranks.from_environment()
    all_threads = runtimes.count_threads(params.train.threads)
    if params.train.threads == "auto":
        params = _with_train(params, threads=max(1, all_threads // ranks.local_size))
    runtimes.prepare_process(params.train)

    from pipeline.corpus import tokenizers
    from pipeline.corpus.batches import Batches, check_length
    from pipeline.corpus.token_file import load_split
    from pipeline.evaluation.perplexity import score_split
    from pipeline.evaluation.sampling import generate, prompt_ids
    from pipeline.model.gpt import GPT, GPTConfig
    from pipeline.model.pretrained import load_pretrained, start_from
    from pipeline.randomness import seed_for
    from pipeline.training.division import share_of
    from pipeline.training.loop import Hooks, Interrupted, Outputs, Trainer, fit
    from pipeline.training.micro_batch import AUTO_ON_CPU, find_micro_batch
    from pipeline.training.parallel import recompute_blocks
    from pipeline.training.resume import ResumeState

    tokenizer = tokenizers.load(TOKENS / "tokenizer.json")
    train_tokens = load_split(TOKENS, "train").tokens
    val_tokens = load_split(TOKENS, "val").tokens
    check_length(val_tokens, params.model.block_size, "val")
    if len(test_tokens := load_split(TOKENS, "test").tokens):  # evaluate would find it too late
        check_length(test_tokens, params.model.block_size, "test")
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
    shape = params.model.model_dump(exclude={"size"})
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape))
    init_from: dict[str, Any] | None = None
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
    tokens_per_step = batches.sequences_per_step * batches.block_size
    flops = float(model.flops_per_token() * tokens_per_step * params.train.max_steps)
    runtime = runtimes.choose(params.train, params.model.block_size, flops)
    ranks.start(runtime.device, params.train.parallel)
    fingerprint = runtime.fingerprint()
    if params.train.parallel != "fsdp":  # which brings each part there itself
        model.to(runtime.device)
    # another number of processes changes bytes, but a run may go on with it
    settings = params.train.model_dump(exclude={"nproc", "threads"})
    auto = params.train.micro_batch_size == "auto"
    val_batch_size = AUTO_ON_CPU if auto else params.train.micro_batch
    if auto:
        model.set_attention(runtime.attention)
        if params.train.activation_checkpointing:
            recompute_blocks(model)
        share = share_of(params.train.sequences, ranks.size)
        size = find_micro_batch(model, runtime, share, ranks)
        params = _with_train(params, micro_batch_size=size)
    trainer = Trainer(
        model,
        batches,
        params.train,
        runtime,
        tokenizer.to_json(),
        ranks,
        pretrained=init_from is not None,
    )

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

    key = sha256_json(
        {
            "params": {"model": params.model.model_dump(), "train": settings},
            "data": sha256_file(TOKENS / "meta.json"),
            "code": _loaded_code(),
            "platform": {**fingerprint, "threads": all_threads},
            "init_from": init_from,
        }
    )
    resume = ResumeState(key, ranks.first)
    outputs = Outputs(CHECKPOINTS, TRAIN_CSV, SAMPLES_TXT)
    show = _Show(params.train.max_steps, quiet=not ranks.first)
    several = f", {ranks.size} processes ({params.train.parallel})" if ranks.size > 1 else ""
    show.line(f"{runtime.describe()}{several}")
    if params.train.warmup_steps > params.train.max_steps:
        reached = params.train.max_steps / params.train.warmup_steps
        show.line(
            f"note: train.warmup_steps ({params.train.warmup_steps}) is more than train.max_steps "
            f"({params.train.max_steps}): the rate ends at {reached:.0%} of train.lr"
        )
    show.line(
        f"{model.count_parameters():,} parameters, {model.flops_per_token():,} FLOPs per token, "
        f"{tokens_per_step:,} tokens per step, {len(train_tokens):,} train tokens"
    )
    state, damaged = resume.load(CHECKPOINTS) if ranks.first else (None, [])
    for line in damaged:
        show.line(f"warning: {line}")
    step = ranks.from_first(state["step"] if state else 0)
    if step:
        state = state or resume.read(step)
        trainer.load_state(state, resume.shards(step))
        show.line(f"going on from step {step}")
        if state["processes"] != ranks.size:
            show.line(
                f"its state is of {state['processes']} processes, now there are {ranks.size}: the "
                "same training, but the bytes will differ from those of one number throughout"
            )
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    stopping = stop_on_signals(STOP_SIGNALS)
    _at_end_of_starter(lambda: stopping.append(signal.SIGTERM))
    hooks = Hooks(validate, sample, show.step, show.line, lambda: bool(stopping))
    try:
        with show:
            fit(trainer, hooks, outputs, resume, params.log.save_interval)
    except Interrupted:
        show.line(f"stopped at step {trainer.step}; its state is saved: `dvc repro` goes on there")
        ranks.wait()
        raise typer.Exit(130) from None
    if not ranks.first:
        return
    if ranks.size > 1 or params.train.parallel == "fsdp":
        fingerprint |= {"processes": ranks.size, "parallel": params.train.parallel}
    if auto:
        fingerprint["micro_batch_size"] = trainer.micro_batch_size
    facts = {
        "model": {
            **shape,
            "vocab_size": tokenizer.vocab_size,
            "parameters": model.count_parameters(),
            "flops_per_token": model.flops_per_token(),
        },
        "runtime": fingerprint,
        "tokens_per_step": tokens_per_step,
        "flops": flops,
        "stopped": trainer.stopped,
        "samples": trainer.samples,
    }
    if init_from is not None:
        facts["init_from"] = {**init_from, "val_loss": trainer.initial_loss}
    write_json(CHECKPOINTS / "run.json", facts)
    resume.remove()
    show.line(
        f"done at step {trainer.step} ({trainer.stopped}): best val loss "
        f"{trainer.best_loss:.4f} at step {trainer.best_step}"
    )


def _with_train(params: Params, **changes: Any) -> Params:
    return params.model_copy(update={"train": params.train.model_copy(update=changes)})


def _train_by_several(params: Params) -> None:
    """Train in as many processes as train.nproc says, and end as they end."""
    from pipeline.training.division import share_of
    from pipeline.training.launch import count_processes, error_line, launch

    processes = count_processes(params.train.nproc, params.train.device)
    share_of(params.train.sequences, processes)
    _at_end_of_starter(lambda: os.kill(os.getpid(), signal.SIGTERM))
    ended = launch(processes, ["-m", "pipeline", "train"])
    if ended.killed:
        raise TrainingError(
            f"{ended.killed}, and the others were ended; run it again: it goes on from the last "
            "saved state"
        )
    line = error_line(ended.stderr)
    if ended.status in (1, 2) and line is not None:
        failure = TrainingError(line)
        failure.exit_code = ended.status
        raise failure
    if ended.status:
        sys.stderr.write(ended.stderr)
        raise typer.Exit(130 if ended.status > 128 else ended.status)


def _loaded_code() -> dict[str, str]:
    """{module: sha256} of the project's code that this process has loaded to train."""
    modules = {
        name: str(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "pipeline" and name != "pipeline.__main__"
    }
    return {name: sha256_file(Path(file)) for name, file in modules.items()}


def _at_end_of_starter(call: Callable[[], object]) -> None:
    """Call when dvc or torchrun is killed, which alone leaves this process training beside the
    next one."""
    from pipeline.training.ranks import under_torchrun

    if under_torchrun():
        call_at_end_of_parent("RANK", "", call)
    elif "DVC_STAGE" in os.environ:
        call_at_end_of_parent("DVC_STAGE", "dvc", call)


class _Show:
    """Live progress in a terminal, a line now and then elsewhere, and the log with times."""

    def __init__(self, max_steps: int, quiet: bool) -> None:
        self.console = Console(quiet=quiet)
        self.quiet = quiet
        self.max_steps = max_steps
        self.started = self.shown = time.monotonic()
        self.first_step = -1
        self.log = logging.getLogger("pipeline.train")
        self.log.setLevel(logging.CRITICAL if quiet else logging.INFO)
        self.log.propagate = False
        if not quiet:
            LOG.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(LOG, mode="w", encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self.log.addHandler(handler)
        self.progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=2,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=max_steps)

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        self.log.info(text)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, trainer: "Trainer") -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if self.first_step < 0:  # the first step compiles and allocates: not counted
            self.first_step, self.started = trainer.step, now
        row = trainer.history.rows[-1] if trainer.history.rows else None
        if row is None or (row.step != trainer.step and not trainer.stopped):
            return
        steps = trainer.step - self.first_step
        rate = steps * trainer.tokens_per_step / max(now - self.started, 1e-9)
        left = (self.max_steps - trainer.step) * trainer.tokens_per_step / max(rate, 1e-9)
        val = f", val {trainer.best_loss:.4f} best" if trainer.best_loss is not None else ""
        epochs = trainer.batches.epochs(trainer.step)
        text = f"loss {row.loss:.4f}{val}, epoch {epochs:.2f}, {rate:,.0f} tokens/s"
        self.log.info("step %d: %s", trainer.step, text)
        self.progress.update(self.task, completed=trainer.step, description=text)
        if not self.console.is_terminal and now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            print(f"step {trainer.step}/{self.max_steps}: {text}, {left:.0f} s left", flush=True)
