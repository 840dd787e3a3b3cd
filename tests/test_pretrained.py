"""Weights from elsewhere load as the function they were, or are refused in one line that names
what does not fit; nothing in a file is ever executed."""

import hashlib
import http.server
import io
import json
import os
import pickle
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from real_ranks import real_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline import GPT, load_checkpoint
from pipeline.corpus.hf import to_hf_tokenizer_json
from pipeline.corpus.new_tokenizers import byte_tokenizer, char_tokenizer, train_bpe
from pipeline.corpus.tokenizers import Tokenizer
from pipeline.errors import CheckpointError, FetchError, TokenFileError
from pipeline.evaluation.sampling import Strategy, choose, generate
from pipeline.export import write_hf, write_safetensors
from pipeline.model.gpt import GPTConfig
from pipeline.model.huggingface import hf_config, to_hf
from pipeline.model.pretrained import TOKENIZER_FILE, Pretrained, load_pretrained, start_from
from pipeline.model.tensor_file import read_tensors, save_tensors
from pipeline.model.weights_files import weights_sha256
from pipeline.randomness import seed_for
from pipeline.storage import sha256_file
from pipeline.training.checkpoint import checkpoint_payload

BYTES = byte_tokenizer()
GPT2 = GPTConfig("gpt2", 2, 2, 128, 16, BYTES.vocab_size)  # heads 64 wide, as in every GPT-2
MODERN = GPTConfig("modern", 2, 4, 32, 16, BYTES.vocab_size)
CAPPED = replace(MODERN, softcap=3.0)  # as NanoChat is, at 15
CANON = GPTConfig("canon", 2, 4, 32, 16, BYTES.vocab_size)


def randomised(config: GPTConfig) -> GPT:
    model = GPT(config).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def transformers_model(model: GPT) -> Any:
    values = hf_config(model.config, eot_id=0)
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(values.pop("model_type"), **values)
    )
    theirs.load_state_dict(to_hf(model), strict=False)
    theirs.tie_weights()
    return theirs


def own_checkpoint(path: Path, model: GPT, tokenizer: Tokenizer = BYTES) -> Path:
    payload = checkpoint_payload(
        model, step=1, loss=1.0, best_loss=1.0, learning_rate=0.1, history={},
        tokenizer=tokenizer.to_json(),
    )  # fmt: skip
    save_tensors(path, payload)
    return path


def nanogpt_state(model: GPT) -> dict[str, torch.Tensor]:
    """As its train.py saves a compiled model: nn.Linear's layout, prefixes, masks."""
    state = {f"_orig_mod.transformer.{n}": t for n, t in model.state_dict().items()}
    state["_orig_mod.lm_head.weight"] = state.pop("_orig_mod.transformer.lm_head.weight")
    for n in range(model.config.n_layer):
        state[f"_orig_mod.transformer.h.{n}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    return state


def same(model: GPT, other: GPT) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    x = torch.arange(16)[None]
    assert torch.equal(model(x)[0], other(x)[0])


@pytest.mark.parametrize("config", [GPT2, MODERN])
def test_our_checkpoint_loads_with_its_tokenizer(config: GPTConfig, tmp_path: Path) -> None:
    model = randomised(config)
    path = own_checkpoint(tmp_path / "best.pt", model)
    loaded = load_pretrained(str(path))
    same(loaded.model, model)
    same(load_checkpoint(path)[0], model)
    assert loaded.load_tokenizer().sha256 == BYTES.sha256


@pytest.mark.parametrize("config", [GPT2, MODERN, CAPPED, CANON])
@pytest.mark.parametrize("write", [write_hf, write_safetensors])
def test_an_export_loads_bit_for_bit(config: GPTConfig, write: Any, tmp_path: Path) -> None:
    model = randomised(config)
    first = load_pretrained(str(own_checkpoint(tmp_path / "best.pt", model)))
    write(tmp_path / "one", first)
    second = load_pretrained(str(tmp_path / "one"))
    same(second.model, model)
    assert second.load_tokenizer().sha256 == BYTES.sha256
    write(tmp_path / "two", second)
    files = [tmp_path / folder / "model.safetensors" for folder in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("config", [GPT2, MODERN, CAPPED])
def test_a_folder_saved_by_transformers_loads(config: GPTConfig, tmp_path: Path) -> None:
    model = randomised(config)
    transformers_model(model).save_pretrained(tmp_path / "saved")
    same(GPT.from_pretrained(str(tmp_path / "saved")), model)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder in which transformers saved GPT2 in several files."""
    theirs = transformers_model(randomised(GPT2))
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="500KB")
    assert not (tmp_path / "parts/model.safetensors").exists()
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    return tmp_path / "parts"


def test_weights_in_several_files_load_by_their_index(parts: Path) -> None:
    whole = load_pretrained(str(parts))
    same(whole.model, randomised(GPT2))
    assert whole.file == parts / "model.safetensors.index.json"
    assert load_pretrained(str(whole.file)).sha256 == whole.sha256 == weights_sha256(whole.file)
    part = next(parts.glob("*.safetensors"))
    state = load_file(part)
    save_file({name: tensor + 1 for name, tensor in state.items()}, part)
    assert weights_sha256(whole.file) != whole.sha256


def test_what_an_index_and_its_files_disagree_on_is_one_line(parts: Path) -> None:
    index = parts / "model.safetensors.index.json"
    part = min(parts.glob("*.safetensors"))
    state = load_file(part)
    name = min(state)
    save_file({n: tensor for n, tensor in state.items() if n != name} | {"x": state[name]}, part)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(str(parts))
    assert str(caught.value) == (
        f"{part}: {name}: found in {index.name} alone; allowed: as it was saved"
    )
    save_file({**state, "x": torch.zeros(1)}, part)
    with pytest.raises(CheckpointError, match=f"{part.name}: x: found there alone; allowed: as"):
        load_pretrained(str(parts))
    part.unlink()
    with pytest.raises(CheckpointError, match=f"{part.name}: not found"):
        load_pretrained(str(parts))
    for values in (
        {},
        {"weight_map": {}},
        {"weight_map": {"a": "../b"}},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": ""}},
    ):
        index.write_text(json.dumps(values))
        assert "allowed: a weight_map of tensors' names and of files beside it" in refusal(index)


def test_a_folder_of_hugging_face_is_read_with_its_own_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_bpe(["a folder has a tokenizer of its own, and here it is"], 280)
    model = randomised(replace(GPT2, vocab_size=tokenizer.vocab_size))
    write_hf(tmp_path, load_pretrained(str(own_checkpoint(tmp_path / "a.pt", model, tokenizer))))
    (tmp_path / TOKENIZER_FILE).unlink()  # as transformers writes the folder
    assert load_pretrained(str(tmp_path)).load_tokenizer().sha256 == tokenizer.sha256
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(TokenFileError, match="found a tokenizer that this project has no form of"):
        load_pretrained(str(tmp_path))
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")  # anything's
    assert load_pretrained(str(tmp_path)).tokenizer is None
    (tmp_path / "vocab.json").rename(tmp_path / "merges.txt")
    with pytest.raises(TokenFileError, match=r"vocab\.json: not found; allowed: as it was saved"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "old.bin"])
def test_gpt2s_tensors_alone_load_as_openai_names_them(name: str, tmp_path: Path) -> None:
    model = randomised(GPT2)
    state = {n.removeprefix("transformer."): t.contiguous() for n, t in to_hf(model).items()}
    state |= {f"h.{n}.attn.bias": torch.ones(1, 1, 16, 16).tril() for n in range(2)}
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=name != "old.bin")
    same(GPT.from_pretrained(str(tmp_path / name)), model)


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpts_checkpoint_loads_with_its_gelu(bias: bool, tmp_path: Path) -> None:
    config = GPTConfig("gpt2", 2, 4, 32, 16, 65, bias=bias, gelu="none")
    model = randomised(config)
    shape = {n: getattr(config, n) for n in ("n_layer", "n_head", "n_embd", "block_size", "bias")}
    payload = {
        "model": nanogpt_state(model),
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": {**shape, "vocab_size": 65, "dropout": 0.0},
        "iter_num": 5,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "shakespeare_char", "device": "cpu"},
    }
    torch.save(payload, tmp_path / "ckpt.pt")
    loaded = load_pretrained(str(tmp_path / "ckpt.pt"))
    same(loaded.model, model)
    with pytest.raises(CheckpointError, match="found no tokenizer, and 65 tokens"):
        loaded.load_tokenizer()


def test_nanogpts_padded_vocabulary_is_cut_to_gpt2s(tmp_path: Path) -> None:
    model = randomised(GPTConfig("gpt2", 1, 1, 8, 4, 50_304, gelu="none"))
    args = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 4, "vocab_size": 50_304}
    torch.save({"model": model.state_dict(), "model_args": args}, tmp_path / "ckpt.pt")
    loaded = load_pretrained(str(tmp_path / "ckpt.pt")).model
    x = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded(x)[0], model(x)[0][..., :50_257])


def test_as_many_tokens_of_ones_own_are_all_kept(tmp_path: Path) -> None:
    model = randomised(GPTConfig("gpt2", 1, 1, 8, 16, 50_304))
    tokenizer = char_tokenizer("".join(map(chr, range(0x10000, 0x10000 + 50_304 - 257))))
    path = own_checkpoint(tmp_path / "best.pt", model, tokenizer)
    loaded = load_pretrained(str(path))
    same(loaded.model, model)
    same(load_checkpoint(path)[0], model)
    assert loaded.load_tokenizer().vocab_size == 50_304


def test_a_course_payload_loads(tmp_path: Path) -> None:
    model = randomised(GPT2)
    shape = {n: getattr(GPT2, n) for n in ("n_layer", "n_head", "n_embd", "block_size")}
    payload = {
        "config": {**shape, "vocab_size": GPT2.vocab_size, "learning_rate": 3e-4},
        "model_state_dict": model.state_dict(),
        "loss": 1.0,
    }
    torch.save(payload, tmp_path / "model.pt")
    same(GPT.from_pretrained(str(tmp_path / "model.pt")), model)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(str(path))
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['BOMB_MARK']}",)


@pytest.mark.parametrize("form", ["torch.save", "old torch.save", "pickle", "inside a zip"])
def test_a_pickle_bomb_is_refused_without_executing(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, path = tmp_path / "exploded", tmp_path / "best.pt"
    monkeypatch.setenv("BOMB_MARK", str(mark))
    payload = {"config": asdict(GPT2), "model_state_dict": {}, "step": 1, "tokenizer": Bomb()}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif form == "inside a zip":
        torch.save({"a": torch.ones(1)}, path)
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, pickle.dumps(Bomb()) if name.endswith("data.pkl") else data)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "torch.save")
    assert refusal(path).startswith("refused: not a checkpoint, or it holds more than tensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    with pytest.raises(CheckpointError):
        read_tensors(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert mark.exists(), "the bomb is a real one"


def test_a_tensor_of_a_wrong_shape_is_named(tmp_path: Path) -> None:
    state = {n: t.contiguous() for n, t in to_hf(randomised(GPT2)).items()}
    state["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(128, 500)
    save_file(state, tmp_path / "model.safetensors")
    assert refusal(tmp_path / "model.safetensors") == (
        "h.1.mlp.c_fc.weight: found shape (500, 128); allowed: (512, 128)"
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"h.0.ln_1.bias": None}, "h.0.ln_1.bias: found no such tensor; allowed: (128)"),
        ({"h.0.extra": torch.ones(1)}, "h.0.extra: unknown tensor"),
        ({"wte.weight": None}, "wte.weight: found no such tensor"),
        ({"wte.weight": torch.ones(3)}, "wte.weight: found shape (3); allowed: a matrix"),
        ({"ln_f.bias": torch.ones(128).long()}, "ln_f.bias: found torch.int64; allowed: floating"),
        ({"lm_head.weight": torch.ones(257, 128)}, "lm_head.weight: found other values"),
        ({"ln_f.bias": torch.ones(128).to_sparse()}, "ln_f.bias: found no plain tensor"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    state = {**randomised(GPT2).state_dict(), **change}
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save(state, tmp_path / "weights.bin")
    assert refusal(tmp_path / "weights.bin").startswith(line)


def test_settings_that_contradict_the_weights_are_refused(tmp_path: Path) -> None:
    payload = {"config": {"n_layer": 3}, "model_state_dict": randomised(GPT2).state_dict()}
    torch.save(payload, tmp_path / "a.pt")
    line = refusal(tmp_path / "a.pt")
    assert line == "n_layer: its settings say 3, its tensors have 2"
    payload["config"]["n_layer"] = torch.tensor([2, 2])
    torch.save(payload, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").startswith("n_layer: its settings say tensor([2, 2]), its")


def test_a_context_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    stated = {"architecture": "modern", "n_head": 2, "block_size": 10**13}
    payload = {"config": stated, "model_state_dict": randomised(MODERN).state_dict()}
    torch.save(payload, tmp_path / "a.pt")
    line = refusal(tmp_path / "a.pt")
    assert line == "block_size: found 10000000000000; allowed: at most 1048576"


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_cut_short_or_of_another_kind_are_refused(name: str, tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save(randomised(GPT2).state_dict(), whole)
    if name.endswith(".safetensors"):
        save_file(randomised(MODERN).state_dict(), tmp_path / name)
        whole = io.BytesIO((tmp_path / name).read_bytes())
    for data in (whole.getvalue()[:-1000], whole.getvalue()[:50], b"", b"hello", b"PK\x03\x04"):
        (tmp_path / name).write_bytes(data)
        assert re.match("not a whole|refused", refusal(tmp_path / name))


def test_a_folder_without_weights_and_a_missing_path_say_what_is_allowed(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        "found no weights; allowed: model.safetensors or pytorch_model.bin, whole or by its "
        ".index.json"
    )
    assert refusal(tmp_path / "gpt3") == (
        "not found; allowed: gpt2, gpt2-medium, gpt2-large, gpt2-xl, hf://OWNER/NAME, a file or a "
        "folder"
    )


def test_without_network_gpt2_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FetchError) as caught:
        load_pretrained("gpt2")
    assert str(caught.value).startswith("gpt2: not in the Hugging Face cache, and the hub cannot")
    assert "\n" not in str(caught.value)


def test_gpt2_comes_from_the_hubs_cache_with_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's layout as huggingface_hub keeps it; the shape alone is smaller."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    repository = tmp_path / "models--openai-community--gpt2"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    model = randomised(GPT2)
    save_file({n: t.contiguous() for n, t in to_hf(model).items()}, snapshot / "model.safetensors")
    loaded = load_pretrained("gpt2")
    same(loaded.model, model)
    assert loaded.facts() == {
        "source": "gpt2",
        "file": None,
        "sha256": loaded.sha256,
        "revision": revision,
    }


REVISION = "2290a62682d06624634c1f46a6ad5be0f47f38aa"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of models that a hub on this machine serves, with an empty cache; its OWNER/NAME
    have one branch, main."""
    folder = tmp_path / "hub"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            owner, name, _, revision, file = self.path.removeprefix("/").split("/")
            path = folder / owner / name / file
            lacks = "RepoNotFound" if not path.parent.is_dir() else "EntryNotFound"
            lacks = lacks if revision in ("main", REVISION) else "RevisionNotFound"
            data = path.read_bytes() if revision in ("main", REVISION) and path.is_file() else None
            self.send_response(404 if data is None else 200)
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(data or b"")))
            if data is None:
                self.send_header("X-Error-Code", lacks)
            else:
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        place = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", place)
        template = place + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_a_model_of_the_hub_comes_with_its_settings_and_tokenizer_and_is_there_offline(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = train_bpe(["To be, or not to be: that is the question. "] * 9, 270)
    wide = GPTConfig("gpt2", 1, 4, 32, 16, tokenizer.vocab_size)  # not 64 a head
    model, folder = randomised(wide), hub / "somebody/small-gpt2"
    folder.mkdir(parents=True)
    torch.save(to_hf(model), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(hf_config(wide, tokenizer.eot_id)))
    (folder / "tokenizer.json").write_text(json.dumps(to_hf_tokenizer_json(tokenizer)))
    for source in ("hf://somebody/small-gpt2", f"hf://somebody/small-gpt2@{REVISION}"):
        loaded = load_pretrained(source)
        same(loaded.model, model)
        text = "not to be"
        assert loaded.load_tokenizer().encode(text).tolist() == tokenizer.encode(text).tolist()
        digest = sha256_file(folder / "pytorch_model.bin")
        assert loaded.facts() == {
            "source": source, "file": None, "sha256": digest, "revision": REVISION
        }  # fmt: skip
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same(load_pretrained("hf://somebody/small-gpt2").model, model)
    with pytest.raises(FetchError, match=r"hf://somebody/other: not in the .*: config\.json: "):
        load_pretrained("hf://somebody/other")


def test_a_model_of_the_hub_may_have_its_tokenizer_in_the_older_form(hub: Path) -> None:
    peer = ByteLevelBPETokenizer()
    peer.train_from_iterator(["Ser ou não ser. "] * 9, 280, special_tokens=["<|endoftext|>"])
    config = GPTConfig("gpt2", 1, 4, 32, 16, peer.get_vocab_size())
    folder = hub / "somebody/older"
    folder.mkdir(parents=True)
    peer.save_model(str(folder))
    torch.save(to_hf(randomised(config)), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(hf_config(config, 0)))
    ours = load_pretrained("hf://somebody/older").load_tokenizer()
    assert ours.encode("não ser").tolist() == peer.encode("não ser").ids


@pytest.mark.parametrize("source", ["hf://nobody/gpt2", "hf://a/b@old", "hf://gpt2/a/b", "hf://"])
def test_what_the_hub_has_not_is_one_line(hub: Path, source: str) -> None:
    (hub / "a/b").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(source)
    assert str(caught.value) == (
        f"{source}: found no such model or revision on the Hugging Face hub, or one that asks for "
        "a login; allowed: hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
    )


def test_a_model_of_the_hub_may_be_in_several_files(hub: Path, parts: Path) -> None:
    (hub / "somebody").mkdir(parents=True)
    parts.rename(hub / "somebody/large")
    same(load_pretrained("hf://somebody/large").model, randomised(GPT2))
    missing = min((hub / "somebody/large").glob("*.safetensors"))
    missing.unlink()
    index = "model.safetensors.index.json"
    shutil.rmtree(hub.parent / "cache")
    with pytest.raises(CheckpointError) as caught:
        load_pretrained("hf://somebody/large")
    assert str(caught.value) == (
        f"hf://somebody/large: found no {missing.name}, which its {index} names"
    )


def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(hub: Path) -> None:
    folder = hub / "somebody/llama"
    folder.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="llama: found no weights; allowed: model"):
        load_pretrained("hf://somebody/llama")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"gigabytes")
    with pytest.raises(CheckpointError, match="model_type: found 'llama'; allowed: gpt2"):
        load_pretrained("hf://somebody/llama")
    assert not list((hub.parent / "cache").rglob("snapshots/*/*.safetensors"))


def started(config: GPTConfig, found: GPTConfig = GPT2, **changes: Any) -> GPT:
    model, theirs = randomised(found), changes.get("theirs", BYTES.to_json())
    values = {"source": "x.pt", "file": Path("x.pt"), "sha256": "", "revision": None}
    pretrained = Pretrained(model, **values, tokenizer=theirs)
    return start_from(GPT(config), pretrained, changes.get("tokenizer", BYTES))


def test_training_may_start_with_a_shorter_context() -> None:
    model = started(GPTConfig("gpt2", 2, 2, 128, 8, BYTES.vocab_size, dropout=0.1))
    x = torch.arange(8)[None]
    torch.testing.assert_close(model.eval()(x)[0], randomised(GPT2)(x)[0])
    assert model.config.dropout == 0.1


def test_training_goes_on_with_what_only_the_weights_say_of_the_function() -> None:
    model = started(replace(MODERN, block_size=8), CAPPED).eval()
    x = torch.arange(8)[None]
    capped = randomised(CAPPED)(x)[0]
    assert torch.equal(model(x)[0], capped)
    assert capped.abs().max() < 3 < randomised(MODERN)(x)[0].abs().max()


def test_text_is_drawn_from_capped_logits() -> None:
    prompt, settings = [1, 2, 3], {"temperature": 1.0, "top_k": 0, "seed": 0, "num_samples": 50}
    drawn = generate(randomised(CAPPED), prompt, max_new_tokens=1, **settings)
    uniforms = [seed_for(seed, "token", 0) / 2**63 for seed in range(50)]
    for config, same in ((CAPPED, True), (MODERN, False)):
        logits = randomised(config)(torch.tensor([prompt]))[0][0, -1]
        assert ([[choose(logits, Strategy(), prompt, u)] for u in uniforms] == drawn) is same


@pytest.mark.parametrize("value", [-1, float("inf"), "15"])
def test_a_bound_of_logits_that_is_none_is_refused(value: Any, tmp_path: Path) -> None:
    stated = {**asdict(MODERN), "softcap": value}
    payload = {"config": stated, "model_state_dict": randomised(MODERN).state_dict()}
    torch.save(payload, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt").startswith(f"softcap: found {value!r}; allowed: a number")


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [("architecture", "modern", "'gpt2'"), ("n_layer", 3, "2"), ("n_head", 4, "2"),
     ("n_embd", 64, "128"), ("bias", False, "True"), ("block_size", 17, "up to 16")],
)  # fmt: skip
def test_a_setting_that_disagrees_with_the_weights_is_named(
    setting: str, value: Any, allowed: str
) -> None:
    config = GPTConfig(**{**asdict(GPT2), setting: value})
    with pytest.raises(CheckpointError) as caught:
        started(config)
    assert str(caught.value) == (
        f"model.{setting}: found {value!r}; allowed with train.init_from: x.pt: {allowed}"
    )


def test_settings_that_disagree_with_the_weights_are_named_together() -> None:
    with pytest.raises(CheckpointError) as caught:
        started(GPTConfig("gpt2", 3, 2, 64, 16, BYTES.vocab_size))
    assert str(caught.value) == (
        "model.n_layer, model.n_embd: found 3, 64; allowed with train.init_from: x.pt: 2, 128"
    )


def test_another_tokenizer_is_refused() -> None:
    other = char_tokenizer(["a"])
    found = r"another tokenizer .byte, 257 tokens, sha256 \w{8}. than data/tokens has .char, 258"
    with pytest.raises(CheckpointError, match=found) as caught:
        started(GPTConfig("gpt2", 2, 2, 128, 8, other.vocab_size), tokenizer=other)
    assert "allowed: the same: prepare.tokenizer: file, and its own in " in str(caught.value)


def test_gpt2s_own_weights_take_its_tokenizer_by_either_name_and_no_other() -> None:
    config = GPTConfig("gpt2", 1, 1, 4, 8, 50257)
    for name in ("gpt2", "r50k_base"):
        started(config, config, theirs=None, tokenizer=real_tokenizer(name))
    with pytest.raises(CheckpointError, match=r"allowed: the same: prepare\.tokenizer: gpt2$"):
        started(config, config, theirs=None, tokenizer=BYTES)


def test_frozen_layers_get_no_gradient() -> None:
    model = randomised(GPT2)
    model.freeze(1)
    x = torch.arange(16)[None]
    model(x, x)[1].backward()
    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {
        name for name, _ in model.named_parameters() if name.startswith(("wte", "wpe", "h.0."))
    }
