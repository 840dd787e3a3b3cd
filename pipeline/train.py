"""Stage train: data/tokens -> data/checkpoints, reports/train.csv, reports/samples.txt."""

import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.params import load_params
from pipeline.storage import sha256_file, sha256_json, write_json

if TYPE_CHECKING:
    from pipeline.training.loop import Trainer

TOKENS = Path("data/tokens")
CHECKPOINTS = Path("data/checkpoints")
TRAIN_CSV = Path("reports/train.csv")
SAMPLES_TXT = Path("reports/samples.txt")
LOG = Path(".cache/train.log")

STOP_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
SECONDS_BETWEEN_LINES = 15.0  # where the output is no terminal
_PR_SET_PDEATHSIG = 1


def train() -> None:
    """Train the model that params.yaml describes on data/tokens.

    Writes best.pt (lowest val loss), last.pt and run.json to data/checkpoints, and while it runs
    reports/train.csv, reports/samples.txt and .cache/train.log. Interrupted, it goes on where it
    stopped when started again, and ends in the same bytes.

    Example: dvc exp run -S train.lr=1e-3
    """
    params = load_params()
    from pipeline.training import runtime as runtimes

    runtimes.prepare_process(params.train)

    from pipeline.corpus import tokenizers
    from pipeline.corpus.batches import Batches, check_length
    from pipeline.corpus.token_file import load_split
    from pipeline.evaluation.perplexity import score_split
    from pipeline.evaluation.sampling import generate
    from pipeline.model.gpt import GPT, GPTConfig
    from pipeline.model.pretrained import load_pretrained, start_from
    from pipeline.randomness import seed_for
    from pipeline.training.loop import Hooks, Interrupted, Outputs, Trainer, fit
    from pipeline.training.resume import ResumeState

    tokenizer = tokenizers.load(TOKENS / "tokenizer.json")
    train_tokens = load_split(TOKENS, "train").tokens
    val_tokens = load_split(TOKENS, "val").tokens
    check_length(val_tokens, params.model.block_size, "val")
    runtime = runtimes.choose(params.train, params.model.block_size)
    fingerprint = runtime.fingerprint()

    batches = Batches(
        train_tokens,
        params.model.block_size,
        params.train.micro_batch_size * params.train.grad_accum_steps,
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
        pretrained = load_pretrained(params.train.init_from)
        model = start_from(model, pretrained, tokenizer)
        init_from = pretrained.facts()
    if params.train.freeze_layers:
        model.freeze(params.train.freeze_layers)
    model.to(runtime.device)
    trainer = Trainer(
        model, batches, params.train, runtime, tokenizer.to_json(), pretrained=init_from is not None
    )

    def validate(model: GPT) -> float:
        return score_split(
            model,
            val_tokens,
            overlap=0.0,
            batch_size=params.train.micro_batch_size,
            autocast=runtime.autocast,
            name="val",
            most_windows=params.train.eval_batches * params.train.micro_batch_size,
        ).loss

    def sample(model: GPT, step: int) -> str:
        prompt = tokenizer.encode(params.train.sample_prompt).tolist() or [tokenizer.eot_id]
        (ids,) = generate(
            model,
            prompt,
            max_new_tokens=params.train.sample_tokens,
            temperature=0.8,
            top_k=50,
            seed=seed_for(params.train.seed, "sample", step),
        )
        return tokenizer.decode(prompt + ids)

    settings = {"model": params.model.model_dump(), "train": params.train.model_dump()}
    key = sha256_json(
        {
            "params": settings,
            "data": sha256_file(TOKENS / "meta.json"),
            "code": _loaded_code(),
            "platform": fingerprint,
            "init_from": init_from,
        }
    )
    resume = ResumeState(key)
    outputs = Outputs(CHECKPOINTS, TRAIN_CSV, SAMPLES_TXT)
    show = _Show(params.train.max_steps)
    show.line(f"{runtime.describe()}")
    show.line(
        f"{model.count_parameters():,} parameters, {model.flops_per_token():,} FLOPs per token, "
        f"{trainer.tokens_per_step:,} tokens per step, {len(train_tokens):,} train tokens"
    )
    state, damaged = resume.load(CHECKPOINTS)
    for line in damaged:
        show.line(f"warning: {line}")
    if state is not None:
        trainer.load_state(state)
        show.line(f"going on from step {trainer.step}")
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    stopping = _stop_on_signals()
    hooks = Hooks(validate, sample, show.step, show.line, lambda: bool(stopping))
    try:
        with show:
            fit(trainer, hooks, outputs, resume, params.log.save_interval)
    except Interrupted:
        show.line(f"stopped at step {trainer.step}; its state is saved: `dvc repro` goes on there")
        raise typer.Exit(130) from None
    facts = {
        "model": {
            **shape,
            "vocab_size": tokenizer.vocab_size,
            "parameters": model.count_parameters(),
            "flops_per_token": model.flops_per_token(),
        },
        "runtime": fingerprint,
        "tokens_per_step": trainer.tokens_per_step,
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


def _loaded_code() -> dict[str, str]:
    """{module: sha256} of the project's code that this process has loaded to train."""
    modules = {
        name: str(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "pipeline" and name != "pipeline.__main__"
    }
    return {name: sha256_file(Path(file)) for name, file in modules.items()}


def _stop_on_signals() -> list[int]:
    """The signals that came; from the second on, the process ends at once."""
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        came.append(number)
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handle)
    if "DVC_STAGE" in os.environ and sys.platform == "linux":
        # a killed dvc would leave this process training beside the next one
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:
            came.append(signal.SIGTERM)
    return came


class _Show:
    """Live progress in a terminal, a line now and then elsewhere, and the log with times."""

    def __init__(self, max_steps: int) -> None:
        self.console = Console()
        self.max_steps = max_steps
        self.started = self.shown = time.monotonic()
        self.first_step = -1
        LOG.parent.mkdir(parents=True, exist_ok=True)
        self.log = logging.getLogger("pipeline.train")
        self.log.setLevel(logging.INFO)
        self.log.propagate = False
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
            disable=not self.console.is_terminal,
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
