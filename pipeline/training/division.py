"""How a step's sequences are divided over processes and micro-batches.

The step is what params.yaml says, whatever the number of processes: each takes an equal share of
its sequences and goes through it in micro-batches of at most the asked-for size.
"""

from pipeline.errors import ParamsError


def share_of(sequences: int, processes: int) -> int:
    """Sequences of a step that each process takes; raises ParamsError where they do not divide."""
    if sequences % processes:
        allowed = ", ".join(map(str, divisors(sequences)))
        raise ParamsError(
            f"train.nproc: found {processes} processes for {sequences} sequences a step "
            f"(sequences_per_step, or micro_batch_size * grad_accum_steps); allowed: {allowed}, or "
            f"a step of a multiple of {processes} sequences"
        )
    return sequences // processes


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def divide(share: int, at_most: int) -> int:
    """The largest micro-batch up to `at_most` that divides a process' share evenly."""
    return max(n for n in divisors(share) if n <= at_most)
