"""A run can start from weights: it reports what they reached, keeps frozen layers as they were,
knows the weights among its inputs, and a run of the smallest rate gives them back."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_project import commit, make_project, run, set_params, words

from pipeline import GPT, load_checkpoint
from pipeline.corpus.new_tokenizers import char_tokenizer
from pipeline.model.gpt import GPTConfig
from pipeline.model.huggingface import hf_config, to_hf
from pipeline.model.pretrained import TOKENIZER_FILE
from pipeline.storage import sha256_file

COMMAND = (sys.executable, "-m", "pipeline")


@pytest.fixture
def started(finished: Path) -> Path:
    """A finished project whose best.pt lies in data/init, to go on from."""
    shutil.copy(finished / "data/checkpoints/best.pt", finished / "data/init/start.pt")
    set_params(finished, train__init_from="data/init/start.pt", train__freeze_layers=1)
    return finished


def test_a_run_goes_on_from_weights_and_reports_both_sides(started: Path) -> None:
    run(started, "dvc", "repro", "-q")
    found = json.loads((started / "reports/metrics.json").read_text())["train"]
    earlier = json.loads((started / "data/checkpoints/run.json").read_text())["init_from"]
    assert earlier["sha256"] == sha256_file(started / "data/init/start.pt")
    assert found["initial_val_loss"] == earlier["val_loss"]
    assert found["best_val_loss"] <= found["initial_val_loss"]
    readme = (started / "README.md").read_text()
    assert f"{found['initial_val_perplexity']:.2f}, {found['best_val_perplexity']:.2f}" in readme
    assert earlier["sha256"] in readme

    before, _ = load_checkpoint(started / "data/init/start.pt")
    after, _ = load_checkpoint(started / "data/checkpoints/last.pt")
    changed = {
        name
        for name, tensor in before.state_dict().items()
        if not torch.equal(tensor, after.state_dict()[name])
    }
    assert changed == {"lm_head.weight"}, "the one block and the embedding are frozen"

    commit(started)
    assert "Data and pipelines are up to date" in run(started, "dvc", "status").stdout
    with (started / "data/init/start.pt").open("ab") as file:
        file.write(b"x")
    assert "data/init" in run(started, "dvc", "status").stdout


@pytest.mark.slow
def test_a_model_with_a_tokenizer_of_its_own_goes_on_with_other_text(finished: Path) -> None:
    set_params(finished, prepare__tokenizer="bpe", prepare__vocab_size=300)
    run(finished, "dvc", "repro", "-q")
    shutil.copy(finished / "data/checkpoints/best.pt", finished / "data/init")
    tokenizer = finished / "data/tokens/tokenizer.json"
    first = tokenizer.read_bytes()
    run(finished, *COMMAND, "export", "--to", "safetensors", "out")
    (finished / "data/own/words.txt").write_text("A text of other words. " * 400)
    set_params(finished, train__init_from="data/init/best.pt")
    refused = run(finished, "dvc", "repro", check=False)
    assert refused.returncode
    assert "allowed: the same: prepare.tokenizer: file, and its own in data/" in refused.stderr
    assert tokenizer.read_bytes() != first
    shutil.copy(finished / "out/tokenizer.json", finished / "data/tokenizer")
    set_params(finished, prepare__tokenizer="file")
    run(finished, "dvc", "repro", "-q")
    assert tokenizer.read_bytes() == first
    facts = json.loads((finished / "data/checkpoints/run.json").read_text())
    assert facts["init_from"]["val_loss"] > 0


@pytest.mark.slow
def test_weights_elsewhere_are_read_too_and_their_change_is_seen_by_report(started: Path) -> None:
    elsewhere = started.parent / "elsewhere.pt"
    shutil.move(started / "data/init/start.pt", elsewhere)
    set_params(started, train__init_from=str(elsewhere))
    run(started, "dvc", "repro", "-q")
    run(started, *COMMAND, "report", "--check")
    with elsewhere.open("ab") as file:
        file.write(b"x")
    refused = run(started, *COMMAND, "report", "--check", check=False)
    assert refused.returncode == 1
    assert f"{elsewhere} has changed since train started from it" in refused.stderr


def test_settings_that_do_not_fit_the_weights_are_one_line(started: Path) -> None:
    set_params(started, model__n_embd=32)
    refused = run(started, *COMMAND, "train", check=False)
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: model.n_embd: found 32; allowed with train.init_from: data/init/start.pt: 16\n"
    )


@pytest.mark.parametrize(
    ("source", "status", "found"),
    [("gone.pt", 2, "gone.pt: not found"), ("gpt2", 1, "gpt2: not in the Hugging Face cache")],
)
def test_weights_that_are_not_there_are_one_line_that_names_the_setting(
    started: Path, monkeypatch: pytest.MonkeyPatch, source: str, status: int, found: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(started.parent))
    set_params(started, train__init_from=source)
    refused = run(started, *COMMAND, "train", check=False)
    assert refused.returncode == status
    assert refused.stderr.startswith(f"error: train.init_from: {found}")
    assert refused.stderr.count("\n") == 1


def test_the_default_rate_is_by_what_is_trained(started: Path) -> None:
    from pipeline.params import load_params

    assert load_params(started / "params.yaml").train.lr == 5e-5
    set_params(started, train__lr=1e-3)
    assert load_params(started / "params.yaml").train.lr == 1e-3
    set_params(started, train__lr="auto", train__init_from="scratch")
    set_params(started, model__architecture="gpt2", train__optimizer="adamw")
    assert load_params(started / "params.yaml").train.lr == 1e-3
    set_params(started, train__optimizer="muon")
    assert load_params(started / "params.yaml").train.lr == 3e-3


def test_a_model_is_evaluated_without_training_and_nothing_is_written(started: Path) -> None:
    run(started, "git", "add", "-A")
    before = run(started, "git", "status", "--porcelain").stdout
    (started / "data/checkpoints").rename(started / "away")
    done = run(started, *COMMAND, "evaluate", "--checkpoint", "data/init/start.pt")
    val = json.loads((started / "reports/metrics.json").read_text())["val"]
    assert f"{val['loss']:.4f}" in done.stdout
    text = run(
        started, *COMMAND, "evaluate", "--checkpoint", "data/init/start.pt",
        "--text", "data/own/words.txt",
    )  # fmt: skip
    assert "word perplexity" in text.stdout
    (started / "away").rename(started / "data/checkpoints")
    assert run(started, "git", "status", "--porcelain").stdout == before


# as many characters as GPT-2 has merges: with the 256 bytes and <|endoftext|>, 50,257 tokens
CHARACTERS = "\n" + "".join(map(chr, range(0x20, 0x20 + 49_999)))


@pytest.mark.slow
def test_gpt2s_own_size_is_evaluated_fine_tuned_and_exported_bit_for_bit(tmp_path: Path) -> None:
    """124M parameters in the layout of openai-community/gpt2, made here; no network."""
    project = make_project(
        tmp_path / "project",
        prepare__tokenizer="char",
        prepare__val_fraction=0.001,
        prepare__test_fraction=0.0,
        model__architecture="gpt2",
        model__size="gpt2",
        model__block_size=32,
        model__bias=True,
        train__init_from="gpt2",
        train__optimizer="adamw",
        train__freeze_layers=11,
        train__max_steps=2,
        train__micro_batch_size=1,
        train__eval_interval=2,
        train__sample_interval=0,
    )
    (project / "data/own/words.txt").write_text(CHARACTERS + words(6000), encoding="utf-8")
    model = GPT(GPTConfig("gpt2", 12, 12, 768, 1024, 50_257))
    model.initialise(1)
    state = {n.removeprefix("transformer."): t.contiguous() for n, t in to_hf(model).items()}
    state |= {f"h.{n}.attn.bias": torch.ones(1, 1, 1024, 1024).tril() for n in range(12)}
    folder = project / "data/init/gpt2"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(model.config, eot_id=50_256)))
    tokenizer = char_tokenizer([CHARACTERS])
    tokenizer.save(folder / TOKENIZER_FILE)
    set_params(project, train__init_from="data/init/gpt2")

    for command in ("fetch", "prepare"):
        run(project, *COMMAND, command)
    assert "val" in run(project, *COMMAND, "evaluate", "--checkpoint", "data/init/gpt2").stdout
    run(project, *COMMAND, "train")
    facts = json.loads((project / "data/checkpoints/run.json").read_text())
    assert facts["init_from"]["val_loss"] == pytest.approx(math.log(50_257), abs=0.7)
    run(project, *COMMAND, "export", "out", "--checkpoint", "data/init/gpt2")
    written = load_file(project / "out/model.safetensors")
    weights = {name: tensor for name, tensor in state.items() if not name.endswith(".attn.bias")}
    assert {f"transformer.{name}" for name in weights} == set(written)
    assert all(torch.equal(t, written[f"transformer.{name}"]) for name, t in weights.items())
