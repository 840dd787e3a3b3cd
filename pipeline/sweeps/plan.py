"""What a sweep is to run: from sweeps/NAME.yaml or from `-S key=a,b`, checked before it starts.

    description: Which peak learning rate?   # a sentence, for the table
    base: {train.max_steps: 400}             # settings of every run
    runs:                                    # settings that go together, a run each
      - {model.architecture: gpt2, train.lr: 1e-3}
      - {model.architecture: modern, train.lr: 3e-3}
    grid:                                    # each of `runs` with every combination of these
      train.seed: [1, 2, 3]

Any of base, runs and grid may be left out. Every run is checked as a whole against params.yaml.
A run is named by the settings that `runs` and `grid` give it, `NAME-lr=0.001-seed=2`, so that a
grid that grows keeps the names of what is done.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import SweepError
from pipeline.params import PARAMS_FILE, Params, TrainParams, check_params, read_params
from pipeline.paths import CACHE
from pipeline.reporting.revisions import value_at
from pipeline.reporting.sweep_record import short_names
from pipeline.storage import parse_yaml, read_json, sha256_json, write_json

FILES = Path("sweeps")
PLANS = CACHE / "sweeps"
LONGEST_NAME = 100  # characters: it becomes a file's name in .git
Settings = dict[str, Any]  # "train.lr" -> value


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str
    settings: Settings  # what it sets over params.yaml


@dataclass
class Plan:
    """A sweep's runs, the commit they start from, and how long they took."""

    name: str
    description: str
    varied: list[str]  # the keys that `runs` and `grid` set
    members: list[Member]
    threads: int  # of a run where the sweep does not set train.threads, its processes share them
    baseline: str = ""
    spent: dict[str, float] = field(default_factory=dict)  # member -> seconds before an interrupt
    seconds: dict[str, float] = field(default_factory=dict)  # member -> seconds in all, once done

    def save(self) -> None:
        """Keep it for `table` and `promote`, and for going on."""
        write_json(PLANS / f"{self.name}.json", asdict(self))

    def forget_times(self, member: str) -> None:
        """It runs again from its start."""
        self.spent.pop(member, None)
        self.seconds.pop(member, None)


def load_plan(name: str) -> Plan | None:
    """The plan of the last `sweep run NAME`, None where there was none."""
    path = PLANS / f"{name}.json"
    if not path.is_file():
        return None
    remedy = "delete it and run the sweep again"
    values = read_json(path, SweepError, remedy)
    try:
        members = [Member(**member) for member in values.pop("members")]
        return Plan(**values, members=members)
    except (KeyError, TypeError):
        raise SweepError(f"{path}: not a plan as this version writes it; {remedy}") from None


def plan_from_file(name: str, threads: int) -> Plan:
    """The sweep that sweeps/NAME.yaml describes; raises SweepError or ParamsError."""
    path = FILES / f"{name}.yaml"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        there = ", ".join(sorted(file.stem for file in FILES.glob("*.yaml"))) or "none"
        raise SweepError(
            f"{path}: not found; allowed: a sweep of {FILES}/ ({there}), or settings by -S"
        ) from None
    kinds = {"description": str, "base": dict, "runs": list, "grid": dict}
    words = {str: "text", dict: "settings, as {train.max_steps: 400}", list: "a list of settings"}
    allowed = f"allowed: {', '.join(kinds)}"
    values = parse_yaml(data, path, SweepError, allowed)
    if not values.keys() <= kinds.keys():
        raise SweepError(f"{path}: found {', '.join(map(str, values))}; {allowed}")
    for key, value in values.items():
        if not isinstance(value, kinds[key]):
            raise SweepError(f"{path}: {key}: found {value!r}; allowed: {words[kinds[key]]}")
    for run in values.get("runs", []):
        if not isinstance(run, dict):
            raise SweepError(f"{path}: runs: found {run!r}; allowed: settings, {{train.lr: 1e-3}}")
    for key, choices in values.get("grid", {}).items():
        if not isinstance(choices, list) or not choices:
            raise SweepError(f"{path}: grid: {key}: found {choices!r}; allowed: a list of values")
    return _plan(
        name,
        values.get("description", ""),
        values.get("base", {}),
        values.get("runs", []) or [{}],
        values.get("grid", {}),
        threads,
        str(path),
    )


def plan_from_flags(name: str, flags: Sequence[str], threads: int) -> Plan:
    """The grid of `key=a,b` flags; one with a single value holds for every run."""
    base, grid = {}, {}
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals or not text.strip():
            raise SweepError(f"-S {flag}: found no value; allowed: key=a,b as train.lr=1e-3,5e-4")
        try:
            choices = YAML(typ="safe", pure=True).load(StringIO(f"[{text}]"))
        except (YAMLError, ValueError, RecursionError):
            raise SweepError(f"-S {flag}: not valid YAML; allowed: key=a,b") from None
        if key in base or key in grid:
            raise SweepError(f"-S {key}: found twice; allowed: once, with all its values: key=a,b")
        if len(choices) == 1:
            base[key] = choices[0]
        else:
            grid[key] = choices
    if not grid:
        raise SweepError("-S: found one value for every key; allowed: several for one: key=a,b")
    return _plan(name, "", base, [{}], grid, threads, "-S")


def _plan(
    name: str,
    description: str,
    base: Settings,
    runs: list[Settings],
    grid: dict[str, list[Any]],
    threads: int,
    source: str,
) -> Plan:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise SweepError(f"sweep {name!r}: allowed: letters, digits, _ and - in its name")
    params = read_params(PARAMS_FILE)
    check_params(params, str(PARAMS_FILE))
    for key in (key for settings in (base, grid, *runs) for key in settings):
        if not isinstance(key, str):
            raise SweepError(f"{source}: found {key!r}; allowed: a setting's name, as train.lr")
    varied = list(dict.fromkeys([key for run in runs for key in run] + list(grid)))
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    own = [{**run, **combination} for run in runs for combination in combinations]
    for place, settings in enumerate(own):
        if settings in own[:place]:
            words = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise SweepError(f"{source}: {words or 'a run'}: found twice; allowed: every run once")
        for key, value in settings.items():
            if not isinstance(value, str | int | float | None):  # a date, a list: no name's part
                raise SweepError(f"{source}: {key}: found {value}; allowed: a number or a word")
    names = _names(name, own)
    members = []
    for member, settings in zip(names, own, strict=True):
        given = {**base, **settings}
        # the numbers of a run depend on its threads, so each run's record says how many
        whole = {"train.threads": threads, **given}
        values = _with(params, whole, f"{source}: {member}")
        train = check_params(values, f"{source}: {member}").train
        if "train.threads" not in given:
            whole["train.threads"] = max(1, threads // processes_of(train))
        # what only other runs set is said of this one too: it is a column of the table
        whole |= {key: value_at(values, key) for key in varied}
        members.append(Member(member, whole))
    return Plan(name, description, varied, members, threads)


def processes_of(train: TrainParams) -> int:
    """How many a run is of, on this machine."""
    if train.nproc == 1:
        return 1
    from pipeline.training.launch import count_processes  # which asks torch for its GPUs

    return count_processes(train.nproc, train.device)


def params_of(params: dict[str, Any], member: Member) -> Params:
    """The settings of a run: params.yaml's with its own instead."""
    return check_params(_with(params, member.settings, member.name), member.name)


def resulting(params: dict[str, Any], member: Member) -> Settings:
    """Every setting of a run that a result can depend on: params.yaml's with its own instead."""
    values = _with(params, member.settings, member.name)
    return {
        f"{section}.{key}": value
        for section, keys in values.items()
        if section not in ("log", "report")
        for key, value in keys.items()
    }


def _names(sweep: str, own: list[Settings]) -> list[str]:
    """A name for each run by its own settings, or by their hash where that is long or no name."""
    keys = sorted({key for settings in own for key in settings})
    short = dict(zip(keys, short_names(keys), strict=True))
    names = []
    for settings in own:
        parts = [sweep]
        for key, value in settings.items():
            parts.append(f"{short[key]}={_word(value)}")
        names.append("-".join(parts))
    unique = Counter(names)
    return [
        f"{sweep}-{sha256_json(settings)[:8]}"
        if len(name) > LONGEST_NAME or unique[name] > 1
        else name
        for name, settings in zip(names, own, strict=True)
    ]


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9_+.-]+|\.\.+", "_", text).strip("._")


def _with(params: dict[str, Any], settings: Settings, where: str) -> dict[str, Any]:
    """params.yaml's values with these instead."""
    values = {section: dict(keys) for section, keys in params.items()}
    for name, value in settings.items():
        section, _, key = str(name).partition(".")
        if section not in values or not key:
            allowed = ", ".join(values)
            raise SweepError(f"{where}: {name}: found no such section; allowed: {allowed}")
        values[section][key] = value
    return values
