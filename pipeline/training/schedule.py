"""The learning rate as a pure function of the step."""

import math

from pipeline.params import TrainParams


def lr_at(step: int, params: TrainParams) -> float:
    """Rate of step 1 to max_steps.

    Linear warmup to `lr` at step `warmup_steps`; then `cosine` falls to `min_lr` at max_steps
    (Loshchilov and Hutter 2017), `wsd` stays and falls linearly over the last
    decay_fraction * max_steps (Hägele et al. 2024), `constant` stays.
    """
    lr, steps, start = params.lr, params.max_steps, params.warmup_steps
    if step < start:
        return lr * step / start
    if params.schedule == "constant":
        return lr
    if params.schedule == "wsd":
        start = max(start, steps - round(params.decay_fraction * steps))
    if step <= start:
        return lr
    progress = (step - start) / (steps - start)
    share = 1 - progress
    if params.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    return params.min_lr + (lr - params.min_lr) * share
