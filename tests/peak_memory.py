"""Trains a GPT-2 size for three steps in this process and prints its peak memory in bytes.

python peak_memory.py SIZE SEQUENCES BLOCK_SIZE OPTIMIZER PRECISION ACTIVATION_CHECKPOINTING
"""

import resource
import sys
from pathlib import Path

from pipeline.params import SIZES, load_params
from pipeline.training import runtime as runtimes


def main() -> None:
    size, sequences, block_size, optimizer, precision, recomputed = sys.argv[1:]
    shipped = load_params(Path(__file__).parent.parent / "params.yaml")
    changes = {
        "micro_batch_size": int(sequences), "optimizer": optimizer, "precision": precision,
        "activation_checkpointing": recomputed == "True", "compile": "off", "threads": 1,
        "device": "cpu",
    }  # fmt: skip
    params = shipped.train.model_copy(update=changes)
    runtimes.prepare_process(params)

    import numpy as np

    from pipeline.corpus.batches import Batches
    from pipeline.model.gpt import GPT, GPTConfig
    from pipeline.training.loop import Trainer

    T = int(block_size)
    tokens = np.random.Generator(np.random.PCG64(1)).integers(0, 50257, 10 * T).astype(np.uint16)
    model = GPT(GPTConfig("gpt2", *SIZES[size], T, 50257))
    batches = Batches(tokens, T, int(sequences), "random", 1)
    trainer = Trainer(model, batches, params, runtimes.choose(params, model.config), {})
    for _ in range(3):
        trainer.train_step()
    trainer.read_back()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
