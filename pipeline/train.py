"""Stage train: data/tokens -> data/checkpoints, reports/train.csv."""

import os
import shutil
import signal
import sys

import typer

from pipeline.corpus.token_file import read_meta
from pipeline.errors import TrainingError
from pipeline.params import Params, load_params
from pipeline.paths import TOKENS
from pipeline.training import runtime
from pipeline.training.ranks import Ranks, call_at_end_of_starter, under_torchrun

# in what torch says, the last where compiled threads are apart
OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "aoti_torch_empty_strided", "ALLOC_FAILED")


def train() -> None:
    """Train the model that params.yaml describes on data/tokens.

    Writes best.pt (lowest val loss), last.pt, run.json and, as it goes, samples.txt to
    data/checkpoints, reports/train.csv and .cache/train.log. Interrupted, it goes on where it
    stopped when started again, and ends in the same bytes.

    Example: dvc exp run -S train.lr=1e-3
    """
    params = load_params()
    if params.train.nproc != 1 and not under_torchrun():
        _train_by_several(params)
        return
    ranks = Ranks.from_environment()
    threads = runtime.count_threads(params.train)
    if params.train.threads == "auto":
        params = params.with_train(threads=max(1, threads // ranks.local_size))
    vocab_size = read_meta(TOKENS)["tokenizer"]["vocab_size"]
    runtime.prepare_process(params.train, params.model, vocab_size)
    from pipeline.training.run import run

    try:
        run(params, ranks, threads)
    except RuntimeError as error:
        compiler = sys.modules.get("torch._dynamo.exc")
        if compiler and isinstance(error, compiler.BackendCompilerFailed):
            cause, kernels = error.inner_exception, os.environ["TORCHINDUCTOR_CACHE_DIR"]
            remedy = "mend that and run it again, or set train.compile: off"
            if not isinstance(cause, OSError) or cause.errno is None:  # no full disk, say
                shutil.rmtree(kernels, ignore_errors=True)
                remedy = (
                    f"{kernels} is removed, as a killed run leaves files there cut short: run it "
                    "again, and if that fails too, set train.compile: off"
                )
            words = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
            raise TrainingError(f"train.compile: {words}; {remedy}") from None
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise TrainingError(
            f"out of memory: lower train.micro_batch_size (now {params.train.micro_batch_size}) "
            "and raise train.grad_accum_steps as much, or set train.activation_checkpointing: "
            "true; then lower model.block_size, model.n_layer or model.n_embd"
        ) from None


def _train_by_several(params: Params) -> None:
    """Train in as many processes as train.nproc says, and end as they end."""
    from pipeline.training.division import share_of
    from pipeline.training.launch import count_processes, error_line, launch

    processes = count_processes(params.train.nproc, params.train.device)
    share_of(params.train.sequences, processes)
    call_at_end_of_starter(lambda: os.kill(os.getpid(), signal.SIGTERM))
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
