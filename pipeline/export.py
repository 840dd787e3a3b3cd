"""Command export: a model as Hugging Face, safetensors, or a Space that can be pushed."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.errors import UserError
from pipeline.params import PARAMS_FILE, load_params
from pipeline.paths import BEST
from pipeline.storage import sha256_file, write_json, write_text

if TYPE_CHECKING:
    from pipeline.model.pretrained import Pretrained

PACKAGE = Path(__file__).parent
PROMPT = "ROMEO:\n"  # of a Space that is made outside of a project


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; new or empty.")],
    to: Annotated[
        Literal["hf", "safetensors", "space"],
        typer.Option(
            help="hf: for transformers; safetensors: with tokenizer and lineage; space: a demo."
        ),
    ] = "hf",
    checkpoint: Annotated[
        str,
        typer.Option(help="The model: gpt2, gpt2-xl, ..., hf://OWNER/NAME, a file or a folder."),
    ] = str(BEST),
) -> None:
    """Write a model for use elsewhere.

    hf: weights, config, tokenizer and model card, as AutoModelForCausalLM and AutoTokenizer open
    them without a network; a canon model brings its own code, which trust_remote_code=True lets
    run. safetensors: weights with settings and tokenizer, which init_from and generate read, the
    tokenizer beside them, as prepare.tokenizer: file takes it, and lineage. space: the demo page
    with the model in it, to push to a Hugging Face Space as it is.

    Example: python -m pipeline export --to hf exports/model/
    """
    from pipeline.model.pretrained import load_pretrained

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: found something there; allowed: a new or empty folder")
    pretrained = load_pretrained(checkpoint)
    write = {"hf": write_hf, "safetensors": write_safetensors, "space": write_space}[to]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # an empty folder may be all that can be written to, as a mounted one is
        beside = folder if folder.exists() else folder.parent
        with tempfile.TemporaryDirectory(dir=beside, prefix=".export-") as scratch:
            new = Path(scratch) / "new"
            write(new, pretrained)
            if folder.exists():
                for path in new.iterdir():
                    path.rename(folder / path.name)
            else:
                new.rename(folder)
    except shutil.Error as error:  # one for each file; the first will do
        raise UserError(f"{folder}: {error.args[0][0][2]}") from None
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}: {pretrained.source} as {to}, {size / 1e6:.1f} MB")


def write_safetensors(folder: Path, pretrained: "Pretrained") -> None:
    """Weights under this project's names, settings and tokenizer in the header, and lineage."""
    from pipeline.model.tensor_file import save_safetensors

    model = pretrained.model
    state = {name: p.detach() for name, p in model.named_parameters()}  # a tied head once
    tokenizer = pretrained.load_tokenizer()
    header = {"config": asdict(model.config), "tokenizer": tokenizer.to_json()}
    save_safetensors(folder / "model.safetensors", state, header)
    tokenizer.save(folder / "tokenizer.json")
    _write_lineage(folder, pretrained)


def _write_lineage(folder: Path, pretrained: "Pretrained") -> tuple[str, dict[str, Any] | None]:
    """Beside the weights, what they were before and come from: their form, so hash, is another."""
    from pipeline.reporting import card

    sha256, origin = card.lineage(pretrained.sha256, pretrained.file.parent)
    kept = {"sha256": sha256, "exported_sha256": sha256_file(folder / "model.safetensors")}
    write_json(folder / card.LINEAGE_FILE, {**kept, "origin": origin})
    return sha256, origin


def write_hf(folder: Path, pretrained: "Pretrained") -> None:
    """What AutoModelForCausalLM and AutoTokenizer open, and a model card."""
    from pipeline.corpus.hf import to_hf_tokenizer_json
    from pipeline.corpus.tokenizers import END_OF_TEXT
    from pipeline.model.huggingface import CANON_CODE, hf_config, to_hf
    from pipeline.model.pretrained import CONFIG_FILE, TOKENIZER_FILE
    from pipeline.model.tensor_file import save_safetensors
    from pipeline.reporting import card

    model, tokenizer = pretrained.model, pretrained.load_tokenizer()
    save_safetensors(folder / "model.safetensors", to_hf(model), {})
    write_json(folder / CONFIG_FILE, hf_config(model.config, tokenizer.eot_id))
    write_json(folder / "tokenizer.json", to_hf_tokenizer_json(tokenizer))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": None,
        # transformers 4 adds token_type_ids if not told, which GPT-2 takes for tokens
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.block_size,
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    write_json(folder / TOKENIZER_FILE, tokenizer.to_json())
    rows = card.facts(model.config, model.count_parameters(), tokenizer.kind)
    sha256, origin = _write_lineage(folder, pretrained)
    for name in CANON_CODE if model.config.architecture == "canon" else ():
        shutil.copyfile(PACKAGE / "model" / name, folder / name)
    write_text(folder / "README.md", card.model_card(model.config, rows, origin, sha256))


SPACE_README = """---
title: TraceGPT
emoji: 🪶
colorFrom: gray
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
---

# A GPT trained with TraceGPT, to try

`app.py` serves the page; `model/` holds the weights and their card. Push this folder to a Space
as it is, or run it here: `pip install -r requirements.txt && python app.py`.
"""
SPACE_APP = '''"""The page of this Space: the model in model/ on the page of pipeline/demo.py."""

from pipeline.demo import build_page, launch_settings
from pipeline.model.pretrained import load_pretrained

demo = build_page(load_pretrained("model"), {prompt!r})

if __name__ == "__main__":
    demo.launch(**launch_settings())
'''
SPACE_NEEDS = (
    "torch",
    "numpy",
    "tiktoken",
    "tokenizers",
    "safetensors",
    "pydantic",
    "ruamel.yaml",
    "typer",
)


def write_space(folder: Path, pretrained: "Pretrained") -> None:
    """app.py, what it needs, and the model; nothing in it refers to this machine."""
    from importlib.metadata import version

    from pipeline.demo import gradio_version

    gradio = gradio_version()
    prompt = load_params().sample.prompt if PARAMS_FILE.is_file() else PROMPT
    write_hf(folder / "model", pretrained)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(PACKAGE, folder / "pipeline", ignore=ignored)
    write_text(folder / "app.py", SPACE_APP.format(prompt=prompt))
    # the hub takes files above 10 MiB by LFS alone, which a large vocabulary's tokenizers are too
    by_lfs = ("*.safetensors", "model/*tokenizer.json")
    lines = (f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in by_lfs)
    write_text(folder / ".gitattributes", "".join(lines))
    needs = [f"{name}=={version(name).partition('+')[0]}" for name in SPACE_NEEDS]
    write_text(folder / "requirements.txt", "\n".join([*needs, f"gradio=={gradio}"]) + "\n")
    write_text(folder / "README.md", SPACE_README.format(gradio=gradio))
