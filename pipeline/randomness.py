"""Every random draw is a pure function of (seed, purpose, step, micro_step, rank).

Nothing reads a generator that something else advanced, so looking at the val loss more often,
sampling, resuming or another number of workers cannot change a run, and a resumed run needs no
generator state.
"""

import hashlib


def seed_for(seed: int, purpose: str, step: int = 0, micro_step: int = 0, rank: int = 0) -> int:
    """A 63-bit seed for one draw; unrelated for any two different arguments."""
    text = f"{seed}/{purpose}/{step}/{micro_step}/{rank}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
