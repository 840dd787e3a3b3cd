"""The learning rate goes up, stays or falls as its schedule says, and ends at min_lr."""

from pathlib import Path

import pytest

from pipeline.params import load_params
from pipeline.training.schedule import lr_at

SHIPPED = load_params(Path(__file__).parent.parent / "params.yaml").train


def rates(schedule: str, **changes: float) -> list[float]:
    settings = {
        "schedule": schedule, "lr": 1.0, "min_lr": 0.1, "warmup_steps": 10, "max_steps": 100,
        "decay_fraction": 0.5, **changes,
    }  # fmt: skip
    params = SHIPPED.model_copy(update=settings)
    return [lr_at(step, params) for step in range(1, 101)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warmup_is_linear_to_the_peak(schedule: str) -> None:
    assert rates(schedule)[:10] == pytest.approx([step / 10 for step in range(1, 11)])


def test_cosine_is_halfway_in_the_middle_and_ends_at_min_lr() -> None:
    cosine = rates("cosine")
    assert cosine[54] == pytest.approx(0.55)
    assert cosine[99] == pytest.approx(0.1)
    assert cosine[9:] == sorted(cosine[9:], reverse=True)


def test_wsd_stays_then_falls_in_a_line() -> None:
    wsd = rates("wsd")
    assert set(wsd[9:50]) == {1.0}
    assert wsd[74] == pytest.approx(0.55)
    assert wsd[99] == pytest.approx(0.1)


def test_without_decay_wsd_is_constant() -> None:
    assert rates("wsd", decay_fraction=0.0) == rates("constant")


def test_without_warmup_the_first_step_has_the_peak() -> None:
    assert rates("cosine", warmup_steps=0)[0] == pytest.approx(1.0, rel=1e-3)
