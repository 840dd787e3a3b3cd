"""The plan's memory is what a real run needs, within 15%."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_project import ROOT, environment, set_params

from pipeline.__main__ import main
from pipeline.params import SIZES, ModelParams, load_params
from pipeline.training.memory import Setting, peak_memory, planned

SHIPPED = load_params(ROOT / "params.yaml").model.model_dump()
TOLERANCE = 0.15


def model_of(**changes: object) -> ModelParams:
    return ModelParams.model_validate({**SHIPPED, **changes})


def needed(**changes: object) -> float:
    setting = Setting(8, 1, 8, "ddp", "adamw", "bf16", False, "cuda")
    model = model_of(architecture="gpt2", size="gpt2-xl", block_size=1024, bias=True)
    return peak_memory(planned(model, 50257), Setting(**{**setting.__dict__, **changes}))


def test_shards_recomputing_and_smaller_micro_batches_need_less() -> None:
    assert needed(parallel="fsdp") < needed()
    assert needed(parallel="fsdp", processes=16) < needed(parallel="fsdp")
    assert needed(parallel="fsdp", micro_steps=2) > needed(parallel="fsdp")
    assert needed(activation_checkpointing=True) < needed()
    assert needed(micro_batch_size=4) < needed()
    assert needed(precision="fp32") > needed()


Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """The command in a project's folder: status, what it printed, its errors."""

    def run(*arguments: str, project: Path = ROOT) -> tuple[int, str, str]:
        monkeypatch.chdir(project)
        monkeypatch.setenv("COLUMNS", "140")
        return main(["plan", *arguments]), *capsys.readouterr()

    return run


def test_the_command_prints_every_size_and_refuses_an_uneven_division(plan: Plan) -> None:
    status, table, errors = plan("--device", "a100", "--nproc", "1", "--nproc", "4")
    assert status == 0, errors
    rows = [line for line in table.splitlines() if " none " in line or "dp " in line]
    assert len(rows) == 3 * (1 + len(SIZES))
    for name in ("params.yaml", *SIZES):
        assert sum(f" {name} " in row for row in rows) == 3
    assert plan("--device", "a100")[1] == table  # of 4 sequences no more can share
    assert "125 TFLOP/s a process; bf16" in table
    status, _, errors = plan("--nproc", "3")
    assert status == 2
    assert errors.endswith("allowed: 1, 2, 4, or a step of a multiple of 3 sequences\n")
    status, table, errors = plan("--tokens", "inf")
    assert (status, table) == (2, "")
    assert errors == "error: --tokens: found inf; allowed: a number 0 or more\n"
    assert plan("--tflops", "-1")[0] == 2


def test_the_vocabulary_is_the_one_that_params_yaml_asks_for(finished: Path, plan: Plan) -> None:
    def own_row(**changes: object) -> str:
        """plan's line on params.yaml's own model, with these settings."""
        set_params(finished, **changes)
        status, table, errors = plan("--device", "cpu", "--nproc", "1", project=finished)
        assert status == 0, errors
        return next(line for line in table.splitlines() if " params.yaml " in line)

    set_params(finished, train__precision="fp32")
    assert "62.5 TFLOP/s a process; fp32" in plan("--device", "a100", project=finished)[1]
    # 3 times the rows of 16: embedding, values, head
    assert " 0.0 M " in own_row(prepare__vocab_size=8192)  # but its tokens are bytes
    assert " 2.4 M " in own_row(prepare__tokenizer="gpt2")
    assert " 0.4 M " in own_row(prepare__tokenizer="bpe")  # whatever was prepared
    given = finished / "data/tokenizer/tokenizer.json"
    given.write_bytes((finished / "data/tokens/tokenizer.json").read_bytes())
    assert " 0.0 M " in own_row(prepare__tokenizer="file")


MEASURED = [
    ("gpt2", 8, 256, "adamw", "fp32", False),
    ("gpt2", 2, 256, "muon", "fp32", False),
    ("gpt2", 8, 256, "adamw", "bf16", False),
    ("gpt2", 8, 256, "adamw", "fp32", True),
    ("gpt2", 1, 1024, "adamw", "fp32", False),
    ("gpt2-medium", 2, 256, "adamw", "fp32", False),
    ("gpt2-large", 1, 256, "adamw", "fp32", False),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "sequences", "block_size", "optimizer", "precision", "recomputed"), MEASURED
)
def test_peak_memory_is_what_a_run_needs_within_15_percent(
    size: str, sequences: int, block_size: int, optimizer: str, precision: str, recomputed: bool
) -> None:
    model = model_of(architecture="gpt2", size=size, block_size=block_size, bias=True)
    setting = Setting(sequences, 1, 1, "none", optimizer, precision, recomputed, "cpu")
    estimated = peak_memory(planned(model, 50257), setting)
    free = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    if free < 1.2 * estimated:
        pytest.skip(f"{free / 1e9:.1f} GB are free, {estimated / 1e9:.1f} GB are needed")
    command = [sys.executable, str(Path(__file__).with_name("peak_memory.py"))]
    arguments = (size, sequences, block_size, optimizer, precision, recomputed)
    run = subprocess.run(
        [*command, *map(str, arguments)], env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert abs(estimated / int(run.stdout) - 1) <= TOLERANCE
