"""A checkpoint holds what it promises, executes nothing, and equal values are equal bytes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_project import ROOT, SMALL_FILES, environment

from pipeline import GPT, load_checkpoint
from pipeline.errors import CheckpointError
from pipeline.model.gpt import ARCHITECTURES, GPTConfig
from pipeline.model.tensor_file import save_tensors
from pipeline.training.checkpoint import checkpoint_payload


def model(architecture: str = "gpt2") -> GPT:
    gpt = GPT(GPTConfig(architecture, 1, 2, 8, 4, 11))
    gpt.initialise(1)
    return gpt


def save(path: Path, gpt: GPT) -> None:
    save_tensors(
        path,
        checkpoint_payload(
            gpt, step=3, loss=1.5, best_loss=1.25, learning_rate=0.1, history={}, tokenizer={}
        ),
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_model_is_the_saved_one(tmp_path: Path, architecture: str) -> None:
    gpt = model(architecture).eval()
    save(tmp_path / "a.pt", gpt)
    loaded, checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert not loaded.training
    assert checkpoint["step"] == 3
    x = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(x)[0], gpt(x)[0])


def test_the_same_values_are_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    gpt = model()
    save(tmp_path / "a.pt", gpt)
    save(tmp_path / "another.pt", load_checkpoint(tmp_path / "a.pt")[0])
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from pipeline.model.tensor_file import save_tensors

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, payload = Path("a.pt"), {"weights": torch.zeros(30000), "step": 1}
save_tensors(path, payload)
for size in range(0, path.stat().st_size, 997):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        save_tensors(Path("sub/b.pt"), payload)
    except OSError as error:
        assert error.filename == "sub", error  # several files may be written in it at a time
    else:
        raise AssertionError(size)
assert list(Path("sub").iterdir()) == []
"""


def test_a_disk_that_is_full_at_any_place_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL],
        cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT), **SMALL_FILES), capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_tied_weight_is_stored_once(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", model())
    state = torch.load(tmp_path / "a.pt", weights_only=True)["model_state_dict"]
    assert state["lm_head.weight"].data_ptr() == state["wte.weight"].data_ptr()


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damage_is_found_at_every_place(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", model())
    data = (tmp_path / "a.pt").read_bytes()
    weights = model().state_dict()["h.0.mlp.c_fc.weight"].numpy().tobytes()
    place = data.index(weights)
    for at in range(place, place + len(weights), 37):
        (tmp_path / "b.pt").write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        assert "damaged" in refused(tmp_path / "b.pt")
    for length in range(0, len(data), 499):
        (tmp_path / "b.pt").write_bytes(data[:length])
        refused(tmp_path / "b.pt")


def test_foreign_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "words.pt").write_text("Shall I compare thee")
    line = "refused: not a checkpoint, or it holds more than tensors and plain values"
    assert refused(tmp_path / "words.pt").endswith(line)
    assert "not found" in refused(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "found list; allowed: a dict" in refused(tmp_path / "list.pt")
    torch.save({"config": {}}, tmp_path / "half.pt")
    assert "model_state_dict" in refused(tmp_path / "half.pt")


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", model())
    payload = torch.load(tmp_path / "a.pt", weights_only=True)
    payload["config"]["n_embd"] = 16
    save_tensors(tmp_path / "b.pt", payload)
    assert "n_embd: its settings say 16, its tensors have 8" in refused(tmp_path / "b.pt")
