"""One run of this project's training loop, timed: a process of its own that prints JSON.

Reads {"data": folder of tokens, "settings": {section: {key: value}}, "steps": how many of the
recipe's steps, or null for all and the loss on the whole val split after them, "deterministic":
false to let torch choose kernels that do not reproduce} from its input.
The steps are the trainer's own; looks at val, samples and saves in between are left out, as they
are of the other side's times.
"""

import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.benchmarking.peer import numbered
from pipeline.benchmarking.workloads import with_settings
from pipeline.params import load_params
from pipeline.training import runtime as runtimes


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Train as asked; returns seconds of each step, and more."""
    params = with_settings(load_params(), asked["settings"])
    data, train = Path(asked["data"]), params.train
    ids, vocab_size = numbered(data)
    runtimes.prepare_process(train, params.model, vocab_size)

    import torch

    from pipeline.corpus import tokenizers
    from pipeline.corpus.batches import Batches
    from pipeline.evaluation.perplexity import score_split
    from pipeline.model.gpt import GPT, GPTConfig
    from pipeline.randomness import seed_for
    from pipeline.training.loop import Trainer

    tokenizer = tokenizers.load(data / "tokenizer.json")
    shape = params.model.model_dump(exclude={"size"})
    model = GPT(GPTConfig(vocab_size=vocab_size, **shape))
    model.initialise(seed_for(train.seed, "initialise"))
    sequences = train.sequences
    batches = Batches(
        ids["train"],
        params.model.block_size,
        sequences,
        train.batch_order,
        train.seed,
    )
    tokens_per_step = sequences * params.model.block_size
    flops = float(model.flops_per_token() * tokens_per_step * train.max_steps)
    runtime = runtimes.choose(train, params.model, flops)
    if not asked["deterministic"]:
        torch.use_deterministic_algorithms(False)
    model.to(runtime.device)
    trainer = Trainer(model, batches, train, runtime, tokenizer.to_json())
    seconds: list[float] = []
    processor = _processor_seconds()
    for _ in range(asked["steps"] or train.max_steps):
        start = time.perf_counter()
        trainer.train_step()
        if runtime.device == "cuda":
            trainer.read_back()
        seconds.append(time.perf_counter() - start)
    processor = _processor_seconds() - processor
    trainer.read_back()  # raises where a loss is not finite
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # KiB
    if sys.platform == "darwin":
        peak /= 1024  # bytes
    if runtime.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e6
    facts = {
        "seconds": seconds,
        "processor_seconds": processor,
        "tokens_per_step": tokens_per_step,
        "flops_per_token": model.flops_per_token(),
        "parameters": model.count_parameters(),
        "runtime": runtime.describe(),
        "peak_memory_mb": round(peak),
    }
    if asked["steps"] is None:
        score = score_split(
            model.eval(),
            ids["val"],
            overlap=0.0,
            batch_size=16,
            autocast=runtime.autocast,
            name="val",
        )
        facts["val_loss"] = score.loss
    return facts


def _processor_seconds() -> float:
    """Of this process and all below it, compilers that have ended too."""
    this, seconds = psutil.Process(), 0.0
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
