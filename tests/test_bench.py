"""`bench`: our loop and a peer's are timed on the same tokens, and the page says what was found."""

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_project import ROOT, commit, environment, run

from pipeline.bench import FREELY, _commit, _kept, _lost, _Work
from pipeline.benchmarking import limits, peer
from pipeline.benchmarking.workloads import QUALITY, SPEED, merged, with_settings
from pipeline.corpus.token_file import load_split
from pipeline.errors import BenchmarkError
from pipeline.params import Params, load_params
from pipeline.reporting.benchmark import (
    benchmark_page,
    benchmark_rows,
    benchmark_section,
    quality_rows,
)

# prints its iterations as nanoGPT's train.py does, from what it is given
TRAIN_PY = """
import os, pickle, sys
import numpy as np
assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
flags = dict(flag[2:].split("=") for flag in sys.argv[1:])
folder = os.path.join("data", flags["dataset"])
ids = np.fromfile(os.path.join(folder, "train.bin"), dtype=np.uint16)
assert ids.max() < pickle.load(open(os.path.join(folder, "meta.pkl"), "rb"))["vocab_size"]
print("step 0: train loss 4.2874, val loss 4.2823")
for i in range(int(flags["max_iters"]) + 1):
    print(f"iter {i}: loss {4 - i / 100:.4f}, time {9 + i}.50ms, mfu -100.00%")
"""

RECORD = {
    "device": "cpu",
    "command": "python -m pipeline bench",
    "date": "2026-01-01",
    "commit": "0123456789abcdef",
    "threads": 2,
    "machine": {"cpu": "A CPU", "torch": "2"},
    "limits": {"bf16_gflops": 100.0, "copy_gb_per_second": 9.0},
    "speed": {
        "char": {
            "shape": {"n_layer": 1, "n_head": 2, "n_embd": 4},
            "block_size": 8,
            "micro_batch_size": 2,
            "parameters": 1234,
            "flops_per_token": 1_000_000,
            "limit_gflops": [50.0, 100.0, 100.0],
            "tokens_per_second": {"ours": [4e4, 6e4, 5e4], "nanoGPT": [1e4, 1e4, 5e4]},
            "ways": {"ours": {"runtime": "cpu, bf16", "peak_memory_mb": 321}},
        }
    },
    "quality": {
        "goal": {
            "target": 1.9,
            "ours": [
                {"seed": 1, "val_loss": 1.85, "seconds": 5.0, "processor_seconds": 9.0},
            ],
            "nanogpt": [{"val_loss": 1.91, "seconds": 60.0}],
        }
    },
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "peer"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN_PY)
    for name in ("model.py", "configurator.py"):
        (folder / name).write_text("")
    return folder


def ours(project: Path, settings: dict[str, dict[str, object]], steps: int | None) -> dict:
    asked = {"data": "data/tokens", "settings": settings, "steps": steps, "deterministic": True}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.benchmarking.ours"], input=json.dumps(asked),
        cwd=project, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_our_steps_are_timed_one_by_one_and_val_is_scored_after_a_whole_run(finished: Path) -> None:
    part = ours(finished, {"train": {"seed": 3}}, 4)
    assert len(part["seconds"]) == 4
    assert all(second > 0 for second in part["seconds"])
    assert part["tokens_per_step"] == 4 * 16
    assert "val_loss" not in part
    whole = ours(finished, {"train": {"max_steps": 6}}, None)
    assert len(whole["seconds"]) == 6
    assert 0 < whole["val_loss"] < 6


@pytest.mark.parametrize(("least", "sizes"), [(0.001, [32, 48]), (0.0, [32])])
def test_the_limits_are_those_of_the_fastest_product_and_a_slow_one_is_not_repeated_larger(
    least: float,
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    timed = []
    product = torch.mm
    monkeypatch.setattr(limits, "SIZES", {"cpu": (32, 48)})
    monkeypatch.setattr(limits, "SECONDS", least)
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: timed.append(len(a)) or product(a, b, out=out)
    )
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        limits.main("cpu", 1)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["fp32_gflops", "fp32_onednn_gflops", "bf16_gflops", "copy_gb_per_second"]
    assert min(found.values()) > 0
    assert sorted(set(timed)) == sizes


def test_the_peer_gets_our_tokens_in_its_format_and_is_read_line_by_line(
    finished: Path, checkout: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    peer.lay_out(checkout, finished / "data/tokens", folder)
    ours = load_split(finished / "data/tokens", "train").tokens
    theirs = np.fromfile(folder / "data/tokens/train.bin", dtype=np.uint16)
    assert theirs.tolist() == np.asarray(ours[: len(ours)]).tolist()
    (folder / "data/tokens/meta.pkl").write_bytes(
        __import__("pickle").dumps({"vocab_size": 257})
    )  # byte tokens are not renumbered
    found = peer.train(folder, {"max_iters": 5, "eval_interval": 2}, "cpu", 2)
    # iterations 0, 2 and 4 hold a look at val
    assert found["seconds"] == pytest.approx([0.0105, 0.0125, 0.0145])


def test_a_folder_that_is_no_checkout_and_a_failing_peer_are_one_line(
    finished: Path, checkout: Path, tmp_path: Path
) -> None:
    (checkout / "train.py").write_text("raise SystemExit('no such corpus')")
    peer.lay_out(checkout, finished / "data/tokens", tmp_path / "work")
    with pytest.raises(BenchmarkError, match="ended with 1: no such corpus"):
        peer.train(tmp_path / "work", {"eval_interval": 1}, "cpu", 1)
    (checkout / "model.py").unlink()
    with pytest.raises(BenchmarkError, match="found no model"):
        peer.check_peer(checkout)


class Children:
    """Stands in for the processes that bench starts: what each was asked, and fixed answers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, repeats: int) -> None:
        self.asked: dict[str, list[Any]] = {"limits": [], "ours": [], "peer": [], "nanogpt": []}
        self.our_seconds = self.their_seconds = [1.0]
        for name in ("char/data/tokens", "nanogpt-char"):  # made already
            (folder / name).mkdir(parents=True)
        monkeypatch.setattr("pipeline.bench._child", self.child)
        monkeypatch.setattr(peer, "train", self.train)
        self.work = _Work(folder, folder, None, "cpu", 3, repeats, Console(quiet=True))

    def child(self, module: str, arguments: list[str], asked: Any) -> dict[str, Any]:
        self.asked[module].append(asked or arguments)
        round_ = len(self.asked["limits"])
        if module == "limits":
            return {"fp32_gflops": 50.0, "bf16_gflops": 100.0 * round_, "copy_gb_per_second": 1e9}
        if module == "peer":
            return {"val_loss": 1.9}
        ours = {"tokens_per_step": 1000, "parameters": 7, "flops_per_token": 9, "runtime": "cpu"}
        ours |= {"peak_memory_mb": 5, "val_loss": 1.8, "processor_seconds": 2.5}
        return {**ours, "seconds": [second * max(1, round_) for second in self.our_seconds]}

    def train(self, folder: Path, flags: Any, device: str, threads: int) -> dict[str, Any]:
        self.asked["nanogpt"].append((folder.name, flags, device, threads))
        found = {"checkpoint": "ckpt.pt", "val_tokens": "val.bin"}
        return {"seconds": self.their_seconds, **found}


def test_a_speed_is_the_tokens_of_a_typical_step_after_the_warm_up_of_ours_and_of_the_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(tmp_path, monkeypatch, repeats=2)
    # one step more or less of the warm-up, or a mean, has another result
    children.our_seconds = [9.0] * 5 + [0.5] * 8 + [2.0] * 7
    children.their_seconds = [9.0] * 5 + [1.0] * 8 + [4.0] * 7
    record = children.work.speed("10m")
    ours = [1000 / 0.5, 1000 / 1.0]  # the second round takes twice as long
    theirs = [8 * 256 / 1.0] * 2
    rates = {"ours": ours, "ours, fp32": ours, FREELY: ours, "nanoGPT": theirs}
    assert record["tokens_per_second"] == rates
    assert record["limit_gflops"] == [100.0, 200.0]
    asked = children.asked["ours"]
    assert [each["steps"] for each in asked] == [20] * 6
    assert [each["deterministic"] for each in asked] == [True, True, False] * 2
    trains = [each["settings"]["train"] for each in asked]
    assert [train.get("precision", "") for train in trains] == ["", "fp32", ""] * 2
    assert {(train["threads"], train["device"]) for train in trains} == {(3, "cpu")}
    assert children.asked["limits"] == [["cpu", "3"]] * 2
    assert children.asked["nanogpt"] == [("nanogpt-char", SPEED["10m"].nanogpt(), "cpu", 3)] * 2


def test_a_whole_runs_seconds_are_those_of_all_its_steps_and_the_peers_without_its_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(tmp_path, monkeypatch, repeats=1)
    children.our_seconds = [4.0, 1.0, 1.0]
    children.their_seconds = [11.0] + [0.1] * 1900
    record = children.work.quality("char-1.898")
    assert record["target"] == 1.898
    assert [one["seed"] for one in record["ours"]] == [1, 2, 3]
    for one in record["ours"]:
        assert (one["seconds"], one["processor_seconds"], one["val_loss"]) == (6.0, 2.5, 1.8)
        assert (one["steps"], one["tokens"]) == (3, 3000)
    assert len(record["nanogpt"]) == 3
    for one in record["nanogpt"]:  # a look's iteration counts as a typical one: 2000 in all
        assert one["seconds"] == pytest.approx(11.0 + 0.1 * 1999)
        assert one["val_loss"] == 1.9
    assert children.asked["nanogpt"][0] == ("nanogpt-char", QUALITY["char-1.898"].nanogpt, "cpu", 3)
    assert children.asked["peer"] == [["ckpt.pt", "val.bin"]] * 3
    trains = [each["settings"]["train"] for each in children.asked["ours"]]
    assert [(train["seed"], train["threads"]) for train in trains] == [(1, 3), (2, 3), (3, 3)]
    assert children.work.quality("char-120s")["nanogpt"] == []
    assert children.asked["ours"][-1]["settings"]["train"]["threads"] == 1, "as the workload says"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-w", "124g"], "--workload: found 124g; allowed: char"),
        (["--name", "Old CPU"], "--name: found 'Old CPU'; allowed: small letters, digits and -"),
        (["--device", "tpu"], "--device: found tpu; allowed: cpu, cuda"),
        (["--text", "nowhere.txt"], "nowhere.txt: --text: not found; allowed: a text file"),
        (["--peer", "nowhere"], "nowhere: --peer: found no train.py"),
        (["--threads", "100000"], "--threads: found 100000; allowed: 0 to "),
        (["--check", "--draw"], "--check: found --draw too; allowed: one of them"),
    ],
)
def test_what_is_not_known_is_one_line(finished: Path, arguments: list[str], said: str) -> None:
    done = run(finished, "python", "-m", "pipeline", "bench", *arguments, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_every_workload_is_a_whole_set_of_valid_settings() -> None:
    params = load_params(ROOT / "params.yaml")
    for name, speed in SPEED.items():
        ours = with_settings(params, speed.settings())
        flags = speed.nanogpt()
        assert flags["n_embd"] == ours.model.n_embd, name
        assert flags["batch_size"] == ours.train.micro_batch_size, name
        assert ours.train.optimizer == "adamw", name
    for quality in QUALITY.values():
        with_settings(params, quality.settings)
        if quality.nanogpt:  # the iterations with a look at val are told by it
            assert quality.nanogpt["eval_interval"] > 1
    assert merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}) == {"a": {"x": 1, "y": 3}}


def test_the_ratio_is_the_median_of_the_pairs_and_the_share_that_of_the_limit() -> None:
    _, rows = benchmark_rows(RECORD)
    rate, spread = "50,000", "40,000 to 60,000"
    assert rows[0] == ("char", "ours", rate, spread, "0.60", "4.00 (1.00–6.00)")
    assert rows[1][-1] == ""
    _, rows = quality_rows(RECORD)
    assert rows == [("goal", "1", "1.8500", "5.0", "9.0", "1.9100", "60.0", "12.0")]
    missed = copy.deepcopy(RECORD["quality"])
    missed["goal"]["ours"][0]["val_loss"] = 1.91
    (row,) = quality_rows({"quality": missed})[1]
    assert row[-1] == "above 1.9"
    page = benchmark_page(RECORD)
    assert "| char | ours | 1/2/4 | 8 | 2 | 1,234 | cpu, bf16 | 321 |" in page
    assert "0123456789ab`" in page


def test_a_further_machines_page_is_checked_and_shown_beside_the_first(finished: Path) -> None:
    folder = finished / "reports/benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cpu", "cpu-old"):
        (folder / f"{name}.json").write_text(json.dumps(RECORD))
        (folder / f"{name}.md").write_text(benchmark_page(RECORD))
    (folder / "cpu-old.md").write_text("faster than ever")
    done = run(finished, "python", "-m", "pipeline", "bench", "--check", check=False)
    assert done.returncode == 1
    assert "cpu-old.md" in done.stderr
    assert "cpu.md" not in done.stderr
    run(finished, "python", "-m", "pipeline", "bench", "--draw")
    run(finished, "python", "-m", "pipeline", "bench", "--check")
    assert (folder / "cpu-old.md").read_text() == benchmark_page(RECORD)
    assert benchmark_section([RECORD, RECORD]).count("A CPU, 2 threads") == 2


def test_a_record_is_not_replaced_by_one_that_holds_less(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    new = {"machine": RECORD["machine"], "peer_commit": ""}
    assert _lost(path, new, ["10m"], 1) == ""
    path.write_text(json.dumps(RECORD))
    assert _lost(path, new, ["10m"], 3) == "char, goal, nanoGPT"
    assert _lost(path, new, ["char", "goal"], 3) == "nanoGPT"
    new["peer_commit"] = "0123"
    assert _lost(path, new, ["char", "goal", "10m"], 3) == ""
    assert _lost(path, new, ["char", "goal"], 2) == "3 rounds"
    new["machine"] = {**RECORD["machine"], "cpu": "Another"}
    assert _lost(path, new, ["char", "goal"], 3) == "the figures of A CPU"


def test_what_was_measured_before_a_stop_is_kept(tmp_path: Path) -> None:
    record = {"speed": {}, "quality": {}}
    with contextlib.suppress(KeyboardInterrupt), _kept(record, tmp_path / "cpu.json"):
        record["speed"]["char"] = {"tokens_per_second": {}}
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise AssertionError("it was not stopped")
    assert json.loads((tmp_path / "cpu.json").read_text()) == record


def test_a_record_without_its_parts_is_one_line(finished: Path) -> None:
    folder = finished / "reports/benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu-cut.json").write_text(json.dumps({**RECORD, "speed": None}))
    done = run(finished, "python", "-m", "pipeline", "bench", "--check", check=False)
    assert done.returncode == 2
    assert "cpu-cut.json: found no speed; allowed: as bench wrote it\n" in done.stderr


def test_the_projects_own_choices_do_not_change_a_workload() -> None:
    shipped = load_params(ROOT / "params.yaml")
    train = {"micro_batch_size": "auto", "sequences_per_step": 8, "precision": "fp32"}
    # more than the context of a workload
    train |= {"batch_order": "documents", "stride": 100, "max_seq_len": 300}
    own = Params.model_validate(merged(shipped.model_dump(), {"train": train}))
    settings = SPEED["char"].settings()
    assert with_settings(own, settings).train == with_settings(shipped, settings).train


def test_a_measured_commit_is_that_of_the_folder_and_tells_of_changes(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("one")
    run(tmp_path, "git", "init", "-q")
    commit(tmp_path)
    head = run(tmp_path, "git", "rev-parse", "HEAD").stdout.strip()
    assert _commit(tmp_path) == head
    (tmp_path / "train.py").write_text("another")
    assert _commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "copied").mkdir()  # without a repository of its own, as of a ZIP
    assert _commit(tmp_path / "copied") == "unknown"
    said = benchmark_page({**RECORD, "commit": f"{head}-dirty", "peer_commit": "unknown"})
    assert f"commit `{head[:12]}` with changes" in said
