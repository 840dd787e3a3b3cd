"""The learning rate as a pure function of the step."""

import math


def lr_at(
    step: int,
    *,
    lr: float,
    min_lr: float,
    schedule: str,
    warmup_steps: int,
    max_steps: int,
    decay_fraction: float,
) -> float:
    """Rate of step 1 to max_steps.

    Linear warmup to `lr` at step `warmup_steps`; then `cosine` falls to `min_lr` at max_steps
    (Loshchilov and Hutter 2017), `wsd` stays and falls linearly over the last
    decay_fraction * max_steps (Hägele et al. 2024), `constant` stays.
    """
    if step < warmup_steps:
        return lr * step / warmup_steps
    if schedule == "constant":
        return lr
    start = warmup_steps
    if schedule == "wsd":
        start = max(warmup_steps, max_steps - round(decay_fraction * max_steps))
    if step <= start:
        return lr
    progress = (step - start) / (max_steps - start)
    share = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return min_lr + (lr - min_lr) * share
