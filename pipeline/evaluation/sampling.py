"""Drawing text from a model, one token at a time.

Each sample has a generator of its own, seeded from (seed, sample's number): the same seed gives
the same text, whatever else was drawn before. A context longer than block_size is cut to its last
block_size tokens.
"""

import torch
from torch import Tensor

from pipeline.model.gpt import GPT
from pipeline.randomness import seed_for


@torch.no_grad()
def generate(
    model: GPT,
    prompt: list[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    num_samples: int = 1,
    stop_id: int | None = None,
) -> list[list[int]]:
    """New ids of each sample after `prompt`, which must hold at least one id.

    temperature 0 takes the likeliest token; top_k 0 keeps all. A sample ends at stop_id, which
    is not part of it.
    """
    model.eval()
    device = next(model.parameters()).device
    generators = [
        torch.Generator().manual_seed(seed_for(seed, "sample", i)) for i in range(num_samples)
    ]
    idx = torch.tensor([prompt] * num_samples, device=device)  # (B, T)
    for _ in range(max_new_tokens):
        features = model.features(idx[:, -model.config.block_size :])[:, -1]  # (B, C)
        logits = model.lm_head(features).float().cpu()  # (B, V)
        chosen = [
            _choose(row, temperature, top_k, generator)
            for row, generator in zip(logits, generators, strict=True)
        ]
        idx = torch.cat((idx, torch.tensor(chosen, device=device)[:, None]), dim=1)
        if stop_id is not None and bool((idx[:, len(prompt) :] == stop_id).any(dim=1).all()):
            break
    drawn = idx[:, len(prompt) :].tolist()
    return [ids[: ids.index(stop_id)] if stop_id in ids else ids for ids in drawn]


def _choose(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature  # (V,)
    if 0 < top_k < len(logits):
        smallest = logits.topk(top_k).values[-1]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))
