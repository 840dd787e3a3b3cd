"""The loss of a nanoGPT checkpoint on its whole val split: a process of its own that prints JSON.

Reads {"checkpoint": file, "tokens": file of uint16} from its input. Every target counts once, in
windows of the model's block_size one after another, as in our own loss.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.perplexity import score_split
from pipeline.model.pretrained import load_pretrained


def main(asked: dict[str, Any]) -> dict[str, float]:
    model = load_pretrained(asked["checkpoint"]).model.eval()
    tokens = np.fromfile(Path(asked["tokens"]), dtype=np.uint16)
    score = score_split(
        model, tokens, overlap=0.0, batch_size=16, autocast=nullcontext, name="val"
    )  # fmt: skip
    return {"val_loss": score.loss}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
