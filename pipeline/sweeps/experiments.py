"""DVC's records of the experiments of one commit, as `dvc exp show --json` gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.paths import METRICS
from pipeline.reporting.revisions import value_at
from pipeline.reporting.stages import dvc_json

PARAMS = "params.yaml"
STATES = ("queued", "failed", "running", "done")  # a later one hides an earlier of the same name


@dataclass(frozen=True)
class Experiment:
    """One experiment; only one that is done has metrics of its own."""

    name: str
    state: str  # of STATES
    commit: str
    params: dict[str, Any]
    metrics: dict[str, Any] | None
    log: Path | None  # what it printed, as long as DVC's queue knows it

    def differing(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """{key: what it ran with} of the settings ("train.lr" -> value) that were not its own."""
        own = {key: value_at(self.params, key) for key in settings}
        return {key: value for key, value in own.items() if value != settings[key]}

    def error(self) -> str | None:
        """The line by which a failed run says why; None where it has not failed."""
        if self.state != "failed":
            return None
        known = self.log is not None and self.log.is_file()
        lines = self.log.read_text(errors="replace").splitlines() if self.log and known else []
        errors = [line for line in lines if line.startswith("error: ")]
        errors += [line for line in lines if line.startswith("ERROR: ")]
        if not errors:
            return "failed before it started; see `dvc queue logs`"
        text = errors[0].removeprefix("error: ").removeprefix("ERROR: ")
        return text.replace(f"{Path.cwd()}/", "")

    def seconds_since(self, started: float) -> float | None:
        """How long it took from `started`; None where its queue record is gone, or DVC had the
        results, so that nothing was computed."""
        if self.log is None or not self.log.is_file():
            return None
        if "Running stage 'train'" not in self.log.read_text(errors="replace"):
            return None
        return self.log.with_suffix(".json").stat().st_mtime - started  # DVC writes it at the end


def experiments(baseline: str) -> dict[str, Experiment]:
    """{name: experiment} of those that start from the commit `baseline`; raises ReportError.

    One that ended before `evaluate`, as `dvc exp run train` does, has no result and is left out.
    """
    every = [
        _experiment(entry)
        for commit in dvc_json("exp", "show", "--rev", baseline)
        if commit["rev"] == baseline
        for entry in commit["experiments"] or []
    ]
    found = [one for one in every if one.metrics is not None or one.state != "done"]
    found.sort(key=lambda experiment: STATES.index(experiment.state))
    return {experiment.name: experiment for experiment in found}


def _experiment(entry: dict[str, Any]) -> Experiment:
    executor = entry["executor"] or {"state": "success", "local": None}
    state = "done" if executor["state"] == "success" else executor["state"]
    revision = entry["revs"][0]
    data = revision["data"] or {}
    log = (executor["local"] or {}).get("log")
    # a run that is not done has the metrics of the commit it started from: not its own
    scores = data.get("metrics", {}).get(METRICS.as_posix(), {})
    metrics = scores.get("data") if state == "done" else None
    return Experiment(
        name=entry["name"] or revision["rev"],
        state=state,
        commit=revision["rev"],
        params=data.get("params", {}).get(PARAMS, {}).get("data", {}),
        metrics=metrics,
        log=Path(log) if log else None,
    )
