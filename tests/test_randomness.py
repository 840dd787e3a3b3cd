"""Seeds are pure functions of their arguments and collide for no two of them."""

from pipeline.randomness import seed_for


def test_a_seed_is_fixed_for_all_time() -> None:
    assert seed_for(1337, "batch", 1) == 6263157756362521535


def test_each_argument_changes_the_seed() -> None:
    seeds = {
        seed_for(seed, purpose, step, micro_step, rank)
        for seed in (0, 1)
        for purpose in ("batch", "dropout")
        for step in (0, 1, 11)
        for micro_step in (0, 1)
        for rank in (0, 1)
    }
    assert len(seeds) == 2 * 2 * 3 * 2 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)
