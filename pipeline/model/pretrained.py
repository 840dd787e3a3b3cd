"""Weights to start from, evaluate or draw text with: OpenAI's GPT-2, and files from elsewhere.

What is read:

    gpt2, gpt2-medium, gpt2-large, gpt2-xl   from the Hugging Face hub, kept in its cache
    hf://OWNER/NAME or hf://OWNER/NAME@REVISION   from there too, as a folder
    a folder         config.json and model.safetensors or pytorch_model.bin, whole or in parts by
                     its .index.json: GPT-2, NanoChat, or what `export --to hf` wrote of canon
    FILE.safetensors what `export --to safetensors` wrote, or GPT-2's tensors
    any other FILE   best.pt and last.pt; {config, model_state_dict} of course projects; nanoGPT's
                     ckpt.pt; a plain dict of GPT-2's tensors (pytorch_model.bin)

A config.json beside a file counts for it. Where nothing states the heads, they are 64 wide, as in
every GPT-2. Nothing in a file is executed; the first thing that does not fit is one line that
names it. From nanoGPT come its GELU, which is the exact one, and the 50,257 tokens of GPT-2
without the 47 that pad its vocabulary, but where a tokenizer comes with the weights that has all.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.corpus import tokenizers
from pipeline.errors import CheckpointError, FetchError
from pipeline.model.gpt import ARCHITECTURES, GPT, GPTConfig
from pipeline.model.huggingface import from_hf, settings_of
from pipeline.model.tensor_file import read_safetensors, read_tensors
from pipeline.model.weights_files import (
    ALLOWED,
    INDEX,
    NAMES,
    files_of,
    tensors_by_file,
    weights_sha256,
)
from pipeline.params import LONGEST_CONTEXT, SIZES
from pipeline.paths import BEST
from pipeline.storage import read_json

TOKENIZER_FILE = "pipeline_tokenizer.json"  # this project's form, beside exported weights
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer.json")
_OLDER = (*tokenizers.OLDER_FILES, "added_tokens.json", "tokenizer_config.json")
CONFIG_FILE = "config.json"
AS_SAVED = "allowed: as it was saved"
HUB = "hf://"
GPT2_VOCAB_SIZE = 50_257
NANOGPT_VOCAB_SIZE = 50_304  # the same, padded to a multiple of 64

# what torch.compile, data parallelism, transformers and nanoGPT put before a tensor's name
_PREFIXES = ("_orig_mod.", "module.", "transformer.")
_NO_WEIGHTS = re.compile(r"(h\.\d+\.attn\.(bias|masked_bias)|.*\.inv_freq)")  # masks and tables


@dataclass(frozen=True)
class Pretrained:
    """A model that somebody trained, and where it comes from."""

    model: GPT
    source: str  # as it was asked for
    file: Path  # that the weights were read from, or the index of several
    sha256: str  # of that file, or of all
    revision: str | None  # the hub's commit
    tokenizer: dict[str, Any] | None  # its JSON, where the file or folder brings one

    def facts(self) -> dict[str, Any]:
        """What names the weights among a run's inputs."""
        facts = {"source": self.source, "file": None, "sha256": self.sha256}
        if self.revision is None:
            facts["file"] = self.file.as_posix()
        return {**facts, "revision": self.revision}

    def load_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer it was trained with; GPT-2's own where it brings none but fits."""
        if self.tokenizer is not None:
            tokenizer = tokenizers.from_json(self.tokenizer, self.source)
        elif self.model.config.vocab_size == GPT2_VOCAB_SIZE:
            from pipeline.corpus.ranks import gpt2_merges

            tokenizer = tokenizers.gpt2_tokenizer(gpt2_merges())
        else:
            raise CheckpointError(
                f"{self.source}: found no tokenizer, and {self.model.config.vocab_size} tokens; "
                f"allowed: its tokenizer.json beside it, or GPT-2's {GPT2_VOCAB_SIZE} tokens"
            )
        if tokenizer.vocab_size != self.model.config.vocab_size:
            raise CheckpointError(
                f"{self.source}: found a tokenizer of {tokenizer.vocab_size} tokens; allowed: the "
                f"model's {self.model.config.vocab_size}"
            )
        return tokenizer


def load_pretrained(name_or_path: str) -> Pretrained:
    """Read weights by a GPT-2 size's name or by path, into fp32 on the CPU.

    Raises CheckpointError for what is not there, is damaged, or does not fit; FetchError where the
    hub cannot be reached.
    """
    is_openais = name_or_path in SIZES  # of which all but the weights is known
    from_hub = is_openais or name_or_path.startswith(HUB)
    path = _from_hub(name_or_path) if from_hub else _weights_file(Path(name_or_path))
    revision = path.parent.name if from_hub else None
    tensors, settings, tokenizer = _read(path)
    if not settings and not is_openais:
        settings = _settings_beside(path.parent)
    try:
        model = build_model(tensors, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if tokenizer is None and not is_openais:
        tokenizer = _tokenizer_beside(path.parent)
    if model.config.architecture == "gpt2" and model.config.vocab_size == NANOGPT_VOCAB_SIZE:
        own = tokenizer and tokenizers.from_json(tokenizer, name_or_path).vocab_size
        model = _without_padding(model) if own in (None, GPT2_VOCAB_SIZE) else model
    return Pretrained(model, name_or_path, path, weights_sha256(path), revision, tokenizer)


def start_from(model: GPT, pretrained: Pretrained, tokenizer: tokenizers.Tokenizer) -> GPT:
    """The pretrained weights in the shape of `model`, whose context may be the shorter one.

    tokenizer: what the model is to be trained with. Raises CheckpointError naming the
    settings of model.* that do not agree.
    """
    wanted, found, source = model.config, pretrained.model.config, pretrained.source
    names = ["architecture", "n_layer", "n_head", "n_embd"]
    names += ["bias"] if wanted.architecture == "gpt2" else []
    if other := [name for name in names if getattr(wanted, name) != getattr(found, name)]:
        keys = ", ".join(f"model.{name}" for name in other)
        asked, held = (
            ", ".join(repr(getattr(config, name)) for name in other) for config in (wanted, found)
        )
        raise CheckpointError(
            f"{keys}: found {asked}; allowed with train.init_from: {source}: {held}"
        )
    if wanted.block_size > found.block_size:
        raise CheckpointError(
            f"model.block_size: found {wanted.block_size}; "
            f"allowed with train.init_from: {source}: up to {found.block_size}"
        )
    theirs = pretrained.load_tokenizer()
    if not theirs.same_ids(tokenizer):
        remedy = "prepare.tokenizer: gpt2"
        if pretrained.tokenizer is not None:
            remedy = "prepare.tokenizer: file, and its own in data/tokenizer (README.md there)"
        raise CheckpointError(
            f"train.init_from: {source} was trained with another tokenizer ({theirs.kind}, "
            f"{theirs.vocab_size} tokens, sha256 {theirs.sha256[:8]}) than data/tokens has "
            f"({tokenizer.kind}, {tokenizer.vocab_size} tokens, {tokenizer.sha256[:8]}); allowed: "
            f"the same: {remedy}"
        )
    started = GPT(replace(wanted, gelu=found.gelu, softcap=found.softcap))
    state = pretrained.model.state_dict()
    if "wpe.weight" in state:
        state["wpe.weight"] = state["wpe.weight"][: wanted.block_size]
    started.load_state_dict(state)
    return started


def _from_hub(source: str) -> Path:
    """The weights file of a hub's model in its cache; what else is read of it lies beside it."""
    repository, _, revision = source.removeprefix(HUB).partition("@")
    others: tuple[str, ...] = (CONFIG_FILE, *TOKENIZER_FILES, *_OLDER)
    if source in SIZES:
        repository, others = f"openai-community/{source}", ()
    has_tokenizer = False
    for name in others:
        if has_tokenizer and name in _OLDER:
            break
        path = _hub_file(source, repository, revision, name)
        if path is not None:
            has_tokenizer |= name in TOKENIZER_FILES
            revision = path.parent.name  # a branch may move on while its files come
            if name == CONFIG_FILE:
                _settings_beside(path.parent)  # another kind is refused before its weights come
    for name in NAMES:
        path = _hub_file(source, repository, revision, name)
        if path is not None:
            for part in files_of(path)[1:]:
                if _hub_file(source, repository, path.parent.name, part.name) is None:
                    raise CheckpointError(f"{source}: found no {part.name}, which its {name} names")
            return path
    raise CheckpointError(f"{source}: found no weights; allowed: {ALLOWED}")


def _hub_file(source: str, repository: str, revision: str, name: str) -> Path | None:
    """A file of a hub's model in its cache; None where the model has none of this name."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        return Path(hub.hf_hub_download(repository, name, revision=revision or None))
    except errors.RemoteEntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        cause: BaseException = error  # it stands behind what says that nothing is here either
        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            cause = error.__cause__
    unknown = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, ValueError)
    if isinstance(cause, unknown):
        raise CheckpointError(
            f"{source}: found no such model or revision on the Hugging Face hub, or one that asks "
            f"for a login; allowed: {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION"
        )
    known = hub.try_to_load_from_cache(repository, name, revision=revision or None)
    if known is hub._CACHED_NO_EXIST:  # as the hub said once
        return None
    reason = next(iter(str(cause).splitlines()), type(cause).__name__)
    raise FetchError(
        f"{source}: not in the Hugging Face cache, and the hub cannot be reached: {name}: {reason}"
    )


def _settings_beside(folder: Path) -> dict[str, Any]:
    """What a folder's config.json states; nothing where there is none."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    return settings_of(read_json(path, CheckpointError, AS_SAVED), str(path))


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            sizes = ", ".join(SIZES)
            made = "`dvc repro` trains it; " if path == BEST else ""
            raise CheckpointError(
                f"{path}: not found; {made}allowed: {sizes}, {HUB}OWNER/NAME, a file or a folder"
            )
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path}: found no weights; allowed: {ALLOWED}")


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Any], dict[str, Any] | None]:
    """A file's tensors, the settings it states under GPTConfig's names, and its tokenizer."""
    if path.name.endswith(INDEX):
        return _read_parts(path), {}, None
    if path.suffix == ".safetensors":
        tensors, beside = read_safetensors(path)
        return tensors, _dict(beside.get("config")), _dict(beside.get("tokenizer")) or None
    payload = read_tensors(path)
    if "model_state_dict" in payload:
        tensors, settings = payload["model_state_dict"], payload.get("config", {})
    elif "model_args" in payload and "model" in payload:
        tensors = payload["model"]
        settings = payload["model_args"]
        if isinstance(settings, dict):
            settings = {**settings, "gelu": "none"}
    elif all(isinstance(value, Tensor) for value in payload.values()):
        tensors, settings = payload, {}
    else:
        keys = ", ".join(map(str, list(payload)[:8]))
        raise CheckpointError(
            f"{path}: found the keys {keys}; allowed: config and model_state_dict, nanoGPT's "
            "model_args and model, or tensors alone"
        )
    if not isinstance(tensors, dict) or not isinstance(settings, dict):
        raise CheckpointError(f"{path}: its config and its weights must each be a dict")
    return tensors, settings, _dict(payload.get("tokenizer")) or None


def _read_parts(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index names, which hold those that it says and no others."""
    tensors: dict[str, Any] = {}
    for name, expected in tensors_by_file(index).items():
        path = index.with_name(name)
        part, _, _ = _read(path)
        if other := sorted(set(part) ^ set(expected)):
            where = "there alone" if other[0] in part else f"in {index.name} alone"
            raise CheckpointError(f"{path}: {other[0]}: found {where}; allowed: as it was saved")
        tensors.update(part)
    return tensors


def _tokenizer_beside(folder: Path) -> dict[str, Any] | None:
    """This project's form of the tokenizer in a folder; None where there is none."""
    _, merges = tokenizers.OLDER_FILES  # vocab.json alone may be of anything
    there = [name for name in (*TOKENIZER_FILES, merges) if (folder / name).is_file()]
    if not there:
        return None
    from pipeline.corpus.hf import read_tokenizer  # slow to import, and needed here only

    name = TOKENIZER_FILES[-1] if there[0] == merges else there[0]
    return read_tokenizer(folder / name, AS_SAVED).to_json()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _renamed(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Floating-point tensors under this project's names."""
    renamed: dict[str, Tensor] = {}
    for full_name, tensor in tensors.items():
        name = str(full_name)
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{name}: found {type(tensor).__name__}; allowed: a tensor")
        if _NO_WEIGHTS.fullmatch(name):
            continue
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise CheckpointError(f"{name}: found no plain tensor; allowed: one with its numbers")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name}: found {tensor.dtype}; allowed: floating point")
        renamed[name] = tensor.float()
    return from_hf(renamed)


def build_model(tensors: Mapping[str, Any], stated: dict[str, Any]) -> GPT:
    """The model of these weights, in eval mode on the CPU, in fp32.

    What `stated` says under GPTConfig's names must agree with them; raises CheckpointError.
    """
    state = _renamed(tensors)
    config = _config(state, stated)
    if config.architecture == "gpt2":
        head = state.setdefault("lm_head.weight", state["wte.weight"])
        if head is not state["wte.weight"] and not torch.equal(head, state["wte.weight"]):
            raise CheckpointError("lm_head.weight: found other values; allowed: wte.weight's, tied")
    # takes no memory: a file must not make this process take any. Rotary tables, which are in no
    # file, would take theirs by the context
    context = config.block_size if config.architecture == "gpt2" else 1
    with torch.device("meta"):
        wanted = GPT(replace(config, block_size=context)).state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise CheckpointError(f"{name}: found no such tensor; allowed: {_shape(tensor)}")
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{name}: found shape {_shape(state[name])}; allowed: {_shape(tensor)}"
            )
    if unknown := sorted(set(state) - set(wanted)):
        raise CheckpointError(f"{unknown[0]}: unknown tensor; known: {', '.join(wanted)[:200]}, …")
    model = GPT(config)
    model.load_state_dict(state)
    return model.eval()


def _without_padding(model: GPT) -> GPT:
    """The model with GPT-2's tokens alone."""
    state = model.state_dict()
    for name in ("wte.weight", "lm_head.weight"):
        state[name] = state[name][:GPT2_VOCAB_SIZE]
    cut = GPT(replace(model.config, vocab_size=GPT2_VOCAB_SIZE))
    cut.load_state_dict(state)
    return cut.eval()


def _config(state: dict[str, Tensor], stated: dict[str, Any]) -> GPTConfig:
    """The settings, from the tensors where they tell, checked against what is stated."""
    architecture = stated.get("architecture", "gpt2")
    if architecture not in ARCHITECTURES:
        allowed = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"architecture: found {architecture!r}; allowed: {allowed}")
    table = _matrix(state, "wte.weight")
    blocks = {int(m[1]) for name in state if (m := re.match(r"h\.(\d+)\.", name))}
    found: dict[str, Any] = {"n_layer": len(blocks), "n_embd": table.size(1)}
    found["vocab_size"] = table.size(0)
    if architecture == "gpt2":
        found["block_size"] = _matrix(state, "wpe.weight").size(0)
        found["bias"] = "ln_f.bias" in state
    for name, value in found.items():
        said = stated.get(name)
        if said is not None and (type(said) is not type(value) or said != value):
            raise CheckpointError(f"{name}: its settings say {said!r}, its tensors have {value!r}")
    if architecture != "gpt2":
        found["bias"] = bool(stated.get("bias", False))  # it has none either way
    found["n_head"] = stated.get("n_head", max(1, found["n_embd"] // 64))
    found["block_size"] = found.get("block_size", stated.get("block_size"))
    for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size"):
        if type(found[name]) is not int or found[name] < 1:
            raise CheckpointError(f"{name}: found {found[name]!r}; allowed: a number above 0")
    for name, usual in (("gelu", "tanh"), ("dropout", 0.0), ("softcap", 0.0)):
        found[name] = stated.get(name, usual)
    width, heads, most = found["n_embd"], found["n_head"], LONGEST_CONTEXT
    even = f"one that gives an even head size (n_embd is {width})"
    for name, fits, allowed in (
        ("block_size", found["block_size"] <= most, f"at most {most}"),  # in no tensor's shape
        ("n_head", width % heads == 0, f"a divisor of n_embd ({width})"),
        ("n_head", architecture == "gpt2" or width // heads % 2 == 0, even),
        ("gelu", found["gelu"] in ("tanh", "none"), "tanh, none"),
        ("dropout", _is_below(found["dropout"], 1), "0 to below 1"),
        ("softcap", _is_below(found["softcap"], math.inf), "a number above 0, or 0 for none"),
    ):
        if not fits:
            raise CheckpointError(f"{name}: found {found[name]!r}; allowed: {allowed}")
    found |= {name: float(found[name]) for name in ("dropout", "softcap")}
    return GPTConfig(architecture=architecture, **found)


def _is_below(value: Any, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value < most


def _matrix(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        names = ", ".join(list(state)[:3]) or "none"
        raise CheckpointError(f"{name}: found no such tensor, but {names}, …")
    if state[name].dim() != 2:
        raise CheckpointError(f"{name}: found shape {_shape(state[name])}; allowed: a matrix")
    return state[name]


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
