"""An export opens offline in transformers as the same model, and a Space runs from its folder."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from fresh_project import contents, enter_project, set_param

from pipeline.__main__ import main
from pipeline.corpus.new_tokenizers import byte_tokenizer, char_tokenizer, train_bpe
from pipeline.corpus.tokenizers import Tokenizer
from pipeline.evaluation.sampling import generate
from pipeline.model.gpt import ARCHITECTURES, GPT, GPTConfig
from pipeline.model.pretrained import load_pretrained
from pipeline.model.tensor_file import save_tensors
from pipeline.storage import sha256_file
from pipeline.training.checkpoint import checkpoint_payload

TEXT = "Shall I compare thee to a summer's day?\nThou art more lovely, and 12345 more! é 世界 🙂\n"
TOKENIZERS = {
    "bpe": train_bpe([TEXT] * 3, 300),
    "char": char_tokenizer([TEXT]),
    "byte": byte_tokenizer(),
}


def checkpoint(path: Path, architecture: str, tokenizer: Tokenizer) -> GPT:
    """A best.pt of a tiny model with random weights."""
    model = GPT(GPTConfig(architecture, 2, 4, 32, 64, tokenizer.vocab_size)).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    payload = checkpoint_payload(
        model, step=1, loss=1.0, best_loss=1.0, learning_rate=0.1, history={},
        tokenizer=tokenizer.to_json(),
    )  # fmt: skip
    save_tensors(path, payload)
    return model


def offline(script: str, *arguments: str, cwd: Path) -> str:
    """Run Python with every hub switched off; returns what it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "empty")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CANON = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
x = (torch.arange(70) % 60)[None, :64]
losses = [model(x, labels=x).loss.item(), model(x, labels=x, num_items_in_batch=10).loss.item()]
alone = torch.tensor([[1, 2, 3]])
padded = torch.tensor([[0, 0, 1, 2, 3], [9, 8, 7, 6, 5], [1, 2, 3, 0, 0]])
mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
logits = model(padded, attention_mask=mask).logits
wanted, settings = model(alone).logits[0], {"do_sample": False, "eos_token_id": None}
torch.testing.assert_close(logits[0, 2:], wanted)
torch.testing.assert_close(logits[1], model(padded[1:2]).logits[0])
torch.testing.assert_close(logits[2, :3], wanted)
for strategy in ({}, {"num_beams": 3}):  # beams change places, and their text with them
    texts = [
        model.generate(alone, max_new_tokens=80, use_cache=cached, **settings, **strategy)[0]
        for cached in (False, True)
    ]
    assert torch.equal(*texts), strategy
ids = model.generate(alone, max_new_tokens=80, **settings)[0].tolist()
first = model(alone, use_cache=True)
torch.testing.assert_close(first.logits[0], wanted)
for text, read in (([1, 2, 3, 4], 1), ([1, 9, 3, 4], 4), ([1, 2, 3, 4, 5, 6], 6)):
    text = torch.tensor([text])
    after = model(text, use_cache=True, cache_params=first.cache_params).logits
    assert after.size(1) == read
    torch.testing.assert_close(after, model(text).logits[:, -read:])
    first = model(alone, use_cache=True)
few = model.generate(
    padded[:2], attention_mask=mask[:2], pad_token_id=0, max_new_tokens=20, **settings
)
try:
    model(x, attention_mask=torch.arange(64)[None] % 40 > 3)
except ValueError as error:
    line = str(error)
for wrong in ({"position_ids": mask}, {"output_attentions": True}):
    try:
        model(padded, **wrong)
    except ValueError as error:
        assert str(error).endswith("found a value; a canon model has no use for it")
    else:
        raise AssertionError(wrong)
assert torch.equal(model(alone, return_dict=False)[0], model(alone).logits)
try:
    model.generate(alone, prompt_lookup_num_tokens=2, **settings)
except ValueError as error:
    assert str(error).startswith("assisted generation takes tokens back")
else:
    raise AssertionError("assisted generation was not refused")
new = AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
new(x, labels=x).loss.backward()
assert any(bool(p.grad.any()) for p in new.parameters())
torch.manual_seed(1)
one, two = (AutoModelForCausalLM.from_config(model.config, trust_remote_code=True) for _ in "12")
assert not torch.equal(one.model.wte.weight, two.model.wte.weight)
size = model.config.vocab_size
model.resize_token_embeddings(size + 3)
torch.testing.assert_close(model(alone).logits[0, :, :size], wanted)
model.save_pretrained("larger")
larger = AutoModelForCausalLM.from_pretrained("larger", trust_remote_code=True)
new = torch.tensor([[size + 2, 1, 2]])
torch.testing.assert_close(larger(new).logits, model(new).logits)
assert larger(new).logits.size(-1) == larger.config.vocab_size == size + 3
print(json.dumps([losses, ids, few[0].tolist(), line]))
"""
LOAD = """
import json, os, sys
from contextlib import redirect_stdout
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
own = {"trust_remote_code": True} if "Canon" in sys.argv[3] else {}
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], **own)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], **own)
ids = tokenizer(sys.argv[2])["input_ids"]
inputs = tokenizer(sys.argv[2], return_tensors="pt")
logits = model(inputs["input_ids"]).logits[0, -1].tolist()
name, text, eos = type(model).__name__, tokenizer.decode(ids), tokenizer.eos_token_id
os.chdir(sys.argv[1])
with redirect_stdout(None):  # as the card says
    exec(Path("README.md").read_text().split("```python\\n")[1].split("```")[0])
print(json.dumps([name, sorted(inputs), ids, text, eos, logits]))
"""


@pytest.mark.parametrize(
    ("architecture", "kind", "name"),
    [("gpt2", "bpe", "GPT2LMHeadModel"), ("modern", "bpe", "NanoChatForCausalLM"),
     ("canon", "bpe", "CanonForCausalLM"),
     pytest.param("modern", "char", "NanoChatForCausalLM", marks=pytest.mark.slow),
     pytest.param("gpt2", "byte", "GPT2LMHeadModel", marks=pytest.mark.slow)],
)  # fmt: skip
def test_transformers_opens_it_offline_by_its_auto_classes(
    architecture: str, kind: str, name: str, tmp_path: Path
) -> None:
    tokenizer, text = TOKENIZERS[kind], TEXT[:40]
    model = checkpoint(tmp_path / "best.pt", architecture, tokenizer)
    assert main(["export", "out", "--checkpoint", "best.pt"]) == 2  # not where it was made
    assert main(["export", str(tmp_path / "o"), "--checkpoint", str(tmp_path / "best.pt")]) == 0
    opened, inputs, ids, decoded, eos, logits = json.loads(
        offline(LOAD, str(tmp_path / "o"), text, name, cwd=tmp_path)
    )
    assert opened == name
    assert inputs == ["attention_mask", "input_ids"]
    assert ids == tokenizer.encode(text).tolist()
    assert decoded == text
    assert eos == tokenizer.eot_id
    ours = model(torch.tensor([ids]))[0][0, -1]
    torch.testing.assert_close(torch.tensor(logits), ours, rtol=1e-5, atol=1e-5)


ALONE = """
import importlib.metadata, re, sys
# what comes with these requirements, and no other package, as on a machine of its own
needed, asked = set(), sys.argv[1].split()
while asked:
    name = re.match("[A-Za-z0-9._-]+", asked.pop())[0].lower().replace("_", "-")
    if name not in needed:
        needed.add(name)
        try:
            requires = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        asked += [one for one in requires if "extra ==" not in one]
class Finder:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        here = packages.get(name.partition(".")[0])
        if not here or {one.lower().replace("_", "-") for one in here} & needed:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
packages = importlib.metadata.packages_distributions()
packages["pipeline"] = ["tracegpt"] if len(sys.argv) > 2 else []
sys.meta_path = [Finder(finder) for finder in sys.meta_path]
"""
FROM_HUB = """
from transformers import AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained("me/canon", trust_remote_code=True)).__name__)
"""


def test_a_canon_model_opens_from_the_hub_where_this_project_is_not_installed(
    tmp_path: Path,
) -> None:
    checkpoint(tmp_path / "best.pt", "canon", TOKENIZERS["bpe"])
    repository = tmp_path / "empty/hub/models--me--canon"  # as the hub's cache has it
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    snapshot = str(repository / "snapshots" / ("0" * 40))
    assert main(["export", snapshot, "--checkpoint", str(tmp_path / "best.pt")]) == 0
    found = offline(ALONE + FROM_HUB, "transformers torch", "without pipeline", cwd=tmp_path)
    assert found.strip() == "CanonForCausalLM"


@pytest.mark.parametrize("form", ["hf", "safetensors"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_is_read_back_as_the_same_model(
    architecture: str, form: str, tmp_path: Path
) -> None:
    model = checkpoint(tmp_path / "best.pt", architecture, TOKENIZERS["bpe"])
    source = ["--checkpoint", str(tmp_path / "best.pt")]
    assert main(["export", "--to", form, str(tmp_path / "out"), *source]) == 0
    same = load_pretrained(str(tmp_path / "out")).model
    assert replace(same.config, bias=True) == model.config  # gpt2 has them, the others no place
    x = torch.arange(20)[None]
    assert torch.equal(same(x)[0], model(x)[0])


def test_a_canon_model_in_transformers_has_our_loss_and_text_also_where_it_is_padded(
    tmp_path: Path,
) -> None:
    model = checkpoint(tmp_path / "best.pt", "canon", TOKENIZERS["bpe"])
    assert main(["export", str(tmp_path / "o"), "--checkpoint", str(tmp_path / "best.pt")]) == 0
    (mean, shared), ids, padded, refused = json.loads(
        offline(CANON, str(tmp_path / "o"), cwd=tmp_path)
    )
    x = torch.arange(70)[None] % 60
    assert mean == pytest.approx(model(x[:, :63], x[:, 1:64])[1].item(), rel=1e-5)
    assert shared == pytest.approx(mean * 63 / 10, rel=1e-5)  # a Trainer's share of several batches
    (greedy,) = generate(model, [1, 2, 3], max_new_tokens=20, temperature=0, top_k=0, seed=1)
    assert ids[:23] == [1, 2, 3, *greedy]
    assert len(ids) == 83
    assert padded == [0, 0, *ids[:23]]
    assert refused == "attention_mask: found a gap; allowed: padding on the left or the right"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint(tmp_path / "best.pt", "modern", TOKENIZERS["bpe"])
    for name in ("one", "two"):
        arguments = [str(tmp_path / name), "--checkpoint", str(tmp_path / "best.pt")]
        assert main(["export", *arguments]) == 0
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert [*one.values()] == [*two.values()]


def test_a_folder_with_something_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["export", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: found something there; allowed: a new or empty folder\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.txt"]


@pytest.mark.parametrize("there", [True, False])
def test_an_export_that_fails_leaves_nothing_and_says_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    def full(source: Path, target: Path, **settings: object) -> None:
        target.mkdir()
        raise shutil.Error([(str(source), str(target), "no room")] * 50)

    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "best.pt", "modern", TOKENIZERS["byte"])
    if there:
        Path("out").mkdir()
    arguments = ["export", "out", "--to", "space", "--checkpoint", "best.pt"]
    with monkeypatch.context() as failing:
        failing.setattr("pipeline.demo.gradio_version", lambda: "6.0")
        failing.setattr("shutil.copytree", full)
        assert main(arguments) == 2
    assert capsys.readouterr().err == "error: out: no room\n"
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == ({"best.pt", "out"} if there else {"best.pt"})
    assert main(["export", "out", "--checkpoint", "best.pt"]) == 0
    assert Path("out/config.json").is_file()
    assert not [*Path("out").glob(".*")]


def test_the_card_has_metrics_and_lineage_of_the_weights_that_reports_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finished_run import META, metrics

    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "best.pt", "modern", TOKENIZERS["bpe"])
    checkpoint(tmp_path / "last.pt", "modern", TOKENIZERS["byte"])
    provenance = {
        "corpus": META["corpus"],
        "tokens": {"tokenizer": META["tokenizer"]},
        "parameters": {"train": "ab" * 32},
        "stages": {"train": {"code": "cd" * 32}},
        "checkpoints": {name: sha256_file(tmp_path / name) for name in ("best.pt", "last.pt")},
    }
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/provenance.json").write_text(json.dumps(provenance))
    (tmp_path / "reports/metrics.json").write_text(json.dumps(metrics()))
    assert main(["export", "out", "--checkpoint", "best.pt"]) == 0
    card = Path("out/README.md").read_text()
    assert "| test | 3.4502 | 31.51 | 1.8312 |" in card
    assert "documents separated by" in card
    alone = {**provenance, "corpus": {**META["corpus"], "documents": 1}}
    Path("reports/provenance.json").write_text(json.dumps(alone))
    assert main(["export", "alone", "--checkpoint", "best.pt"]) == 0
    assert "<|endoftext|>" not in Path("alone/README.md").read_text()
    Path("reports/provenance.json").write_text(json.dumps(provenance))
    for digest in (provenance["checkpoints"]["best.pt"], "ab" * 32, "cd" * 32):
        assert digest in card
    assert main(["export", "again", "--checkpoint", "out"]) == 0  # an export keeps its lineage
    assert Path("again/README.md").read_text() == card

    assert main(["export", "weights", "--to", "safetensors", "--checkpoint", "best.pt"]) == 0
    assert main(["export", "third", "--checkpoint", "weights/model.safetensors"]) == 0
    assert Path("third/README.md").read_text() == card

    assert main(["export", "last", "--checkpoint", "last.pt"]) == 0
    card = Path("last/README.md").read_text()
    assert "None are recorded: of the run's checkpoints best.pt alone was scored." in card
    for digest in (provenance["checkpoints"]["last.pt"], "ab" * 32, "cd" * 32):
        assert digest in card

    checkpoint(tmp_path / "other.pt", "gpt2", TOKENIZERS["bpe"])
    assert main(["export", "other", "--checkpoint", "other.pt"]) == 0
    assert "None are recorded" in Path("other/README.md").read_text()


@pytest.mark.parametrize(
    "origin", [{"metrics": {}}, {"metrics": {}, "provenance": []}, [], "somewhere"]
)
def test_a_foreign_lineage_that_is_not_whole_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: object
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "best.pt", "modern", TOKENIZERS["byte"])
    sha256 = sha256_file(tmp_path / "best.pt")
    kept = {"sha256": "ab" * 32, "exported_sha256": sha256, "origin": origin}
    (tmp_path / "lineage.json").write_text(json.dumps(kept))
    assert main(["export", "out", "--checkpoint", "best.pt"]) == 0
    card = Path("out/README.md").read_text()
    assert "the weights are not those of a reported run" in card
    assert sha256 in card


SPACE = """
import app
from pathlib import Path
import pipeline
assert Path(pipeline.__file__).parent == Path("pipeline").absolute()
print([component.label for component in app.demo.blocks.values() if getattr(component, "label", 0)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["modern", "canon"])
def test_a_space_builds_its_page_from_its_own_folder(tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("gradio", reason="needs the extra demo")
    checkpoint(tmp_path / "best.pt", architecture, TOKENIZERS["bpe"])
    space = tmp_path / "space"
    arguments = ["--to", "space", str(space), "--checkpoint", str(tmp_path / "best.pt")]
    assert main(["export", *arguments]) == 0
    everything = b"".join(contents(space).values())  # before Python keeps what it compiles there
    requirements = " ".join((space / "requirements.txt").read_text().split())
    assert "'Prompt'" in offline(ALONE + SPACE, requirements, cwd=space)
    front = (space / "README.md").read_text().split("---")[1]
    assert "sdk: gradio\n" in front
    assert "model/*tokenizer.json filter=lfs" in (space / ".gitattributes").read_text()
    assert "app_file: app.py\n" in front
    version = front.partition("sdk_version: ")[2].split("\n")[0]
    assert f"gradio=={version}\n" in (space / "requirements.txt").read_text()
    assert str(tmp_path).encode() not in everything
    assert str(Path(__file__).parent.parent).encode() not in everything


def test_a_space_opens_with_the_projects_own_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.demo.gradio_version", lambda: "6.0")
    checkpoint(tmp_path / "best.pt", "modern", TOKENIZERS["byte"])
    enter_project(tmp_path, monkeypatch)
    set_param("prompt", "\"Once upon\\na 'time'\"")
    assert main(["export", "space", "--to", "space", "--checkpoint", "best.pt"]) == 0
    text = Path("space/app.py").read_text()
    compile(text, "app.py", "exec")
    prompt = "Once upon\na 'time'"
    assert f'build_page(load_pretrained("model"), {prompt!r})' in text


def test_a_space_without_gradio_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pipeline.demo.version", missing)
    checkpoint(tmp_path / "best.pt", "modern", TOKENIZERS["bpe"])
    arguments = ["--to", "space", str(tmp_path / "s"), "--checkpoint", str(tmp_path / "best.pt")]
    assert main(["export", *arguments]) == 2
    assert "gradio" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
