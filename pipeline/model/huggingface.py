"""This project's models under the names, layouts and settings of transformers, both ways.

`gpt2` is GPT2LMHeadModel, whose Conv1D keeps a matrix as (in, out) where nn.Linear keeps
(out, in); biases that a model lacks are zeros there. `modern` is NanoChatForCausalLM, whose
queries, keys and values are three matrices. For `canon` transformers has no class: an export
brings its own, hf_canon.py.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model.gpt import GPT, NORM_EPS, ROPE_BASE, GPTConfig

CANON_TYPE = "tracegpt_canon"
CANON_FIELDS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "dropout")
CANON_CODE = ("hf_canon.py", "gpt.py")  # of this folder: what an exported one runs
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
GELU = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}

# what the weights do not tell, and what must be so for the function to be this project's
GPT2_FIXED = {
    "layer_norm_epsilon": NORM_EPS["gpt2"],
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
MODERN_FIXED = {
    "rms_norm_eps": NORM_EPS["modern"],
    "hidden_act": "relu2",
    "attention_bias": False,
    "tie_word_embeddings": False,
}
NANOCHAT_SOFTCAP = 15.0  # where its config.json does not say


def hf_config(config: GPTConfig, eot_id: int) -> dict[str, Any]:
    """The value of config.json."""
    # NanoChat's embedding would give the padding's row no gradient, so there is none
    common = {
        **{"bos_token_id": eot_id, "eos_token_id": eot_id, "pad_token_id": None},
        "dtype": "float32",
        # where none is stated, AutoTokenizer advises another pattern for a large vocabulary
        "transformers_version": "5.0.0",
    }
    if config.architecture == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": config.vocab_size,
            "n_positions": config.block_size,
            "n_embd": config.n_embd,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_inner": None,
            "activation_function": "gelu_new" if config.gelu == "tanh" else "gelu",
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            **GPT2_FIXED,
            **common,
        }
    if config.architecture == "canon":
        code = CANON_CODE[0].removesuffix(".py")
        return {
            "architectures": ["CanonForCausalLM"],
            "model_type": CANON_TYPE,
            "auto_map": {
                "AutoConfig": f"{code}.CanonConfig",
                "AutoModelForCausalLM": f"{code}.CanonForCausalLM",
            },
            **{name: getattr(config, name) for name in CANON_FIELDS},
            "tie_word_embeddings": False,  # transformers 4 ties them if not told
            **common,
        }
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "max_position_embeddings": config.block_size,
        "attention_dropout": config.dropout,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        "final_logit_softcapping": config.softcap or None,
        **MODERN_FIXED,
        **common,
    }


def settings_of(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """GPTConfig's fields as a config.json states them; raises CheckpointError for another model."""
    kind = values.get("model_type")
    if kind == "gpt2":
        _check(values, GPT2_FIXED, where)
        width, inner = values.get("n_embd"), values.get("n_inner")
        if inner is not None and (not isinstance(width, int) or inner != 4 * width):
            raise CheckpointError(f"{where}: n_inner: found {inner!r}; allowed: null, or 4 n_embd")
        activation = values.get("activation_function", "gelu_new")
        if not isinstance(activation, str) or activation not in GELU:
            allowed = ", ".join(GELU)
            raise CheckpointError(
                f"{where}: activation_function: found {activation!r}; allowed: {allowed}"
            )
        names = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd"}
        names |= {"block_size": "n_positions", "vocab_size": "vocab_size"}
        stated = {ours: values[theirs] for ours, theirs in names.items() if theirs in values}
        return {"architecture": "gpt2", "gelu": GELU[activation], **stated}
    if kind == "nanochat":
        _check(values, MODERN_FIXED, where)
        rope = values.get("rope_parameters")
        if (
            not isinstance(rope, dict)
            or rope.get("rope_type", "default") != "default"
            or rope.get("rope_theta") != ROPE_BASE
        ):
            raise CheckpointError(
                f"{where}: rope_parameters: found {rope}; allowed: default, rope_theta {ROPE_BASE}"
            )
        heads = values.get("num_attention_heads")
        if values.get("num_key_value_heads", heads) not in (heads, None):
            raise CheckpointError(f"{where}: num_key_value_heads: allowed: num_attention_heads")
        names = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
        names |= {"n_embd": "hidden_size", "block_size": "max_position_embeddings"}
        stated = {ours: values[theirs] for ours, theirs in names.items() if theirs in values}
        softcap = values.get("final_logit_softcapping", NANOCHAT_SOFTCAP)
        if softcap is not None and (
            type(softcap) not in (int, float) or not 0 < softcap < math.inf
        ):
            raise CheckpointError(
                f"{where}: final_logit_softcapping: found {softcap!r}; allowed: null, or above 0"
            )
        stated["softcap"] = float(softcap or 0)
        return {"architecture": "modern", "vocab_size": values.get("vocab_size"), **stated}
    if kind == CANON_TYPE:
        return {"architecture": "canon", **{n: values[n] for n in CANON_FIELDS if n in values}}
    allowed = f"gpt2, nanochat, {CANON_TYPE}"
    raise CheckpointError(f"{where}: model_type: found {kind!r}; allowed: {allowed}")


def _check(values: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for key, allowed in fixed.items():
        found = values.get(key, allowed)
        if found != allowed:
            raise CheckpointError(f"{where}: {key}: found {found!r}; allowed: {allowed!r}")


def to_hf(model: GPT) -> dict[str, Tensor]:
    """The model's weights under transformers' names, in its layouts."""
    config, ours = model.config, model.state_dict()
    theirs: dict[str, Tensor] = {}
    if config.architecture == "gpt2":
        for name, tensor in ours.items():
            if name != "lm_head.weight":  # tied
                layout = tensor.T if name.endswith(CONV1D) else tensor
                theirs[f"transformer.{name}"] = layout
                bias = name.removesuffix("weight") + "bias"
                if not config.bias and (name.endswith(CONV1D) or ".ln_" in f".{name}"):
                    theirs[f"transformer.{bias}"] = torch.zeros(tensor.size(0))
        return theirs
    if config.architecture == "canon":
        return {f"model.{name}": tensor for name, tensor in ours.items()}
    theirs = {
        "model.embed_tokens.weight": ours["wte.weight"],
        "lm_head.weight": ours["lm_head.weight"],
    }
    for i in range(config.n_layer):
        part = f"model.layers.{i}"
        q, k, v = ours[f"h.{i}.attn.c_attn.weight"].chunk(3)
        theirs |= {
            f"{part}.self_attn.q_proj.weight": q,
            f"{part}.self_attn.k_proj.weight": k,
            f"{part}.self_attn.v_proj.weight": v,
            f"{part}.self_attn.o_proj.weight": ours[f"h.{i}.attn.c_proj.weight"],
            f"{part}.mlp.fc1.weight": ours[f"h.{i}.mlp.c_fc.weight"],
            f"{part}.mlp.fc2.weight": ours[f"h.{i}.mlp.c_proj.weight"],
        }
    return theirs


def from_hf(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this project's names, from NanoChat's, GPT-2's or an exported canon model's."""
    ours = dict(tensors)
    if "model.wte.weight" in ours:  # an exported canon model
        ours = {name.removeprefix("model."): tensor for name, tensor in ours.items()}
    if "model.embed_tokens.weight" in ours:
        ours["wte.weight"] = ours.pop("model.embed_tokens.weight")
    names = {"self_attn.o_proj": "attn.c_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    layer = 0
    while f"model.layers.{layer}.self_attn.q_proj.weight" in ours:
        part = f"model.layers.{layer}"
        found = [ours.pop(f"{part}.self_attn.{x}_proj.weight", None) for x in "qkv"]
        parts = [p for p in found if p is not None and p.dim() == 2]
        if len(parts) < 3 or len({p.size(1) for p in parts}) > 1:
            raise CheckpointError(
                f"{part}.self_attn: q_proj, k_proj and v_proj do not fit together"
            )
        ours[f"h.{layer}.attn.c_attn.weight"] = torch.cat(parts)
        for theirs, name in names.items():
            if f"{part}.{theirs}.weight" in ours:
                ours[f"h.{layer}.{name}.weight"] = ours.pop(f"{part}.{theirs}.weight")
        layer += 1
    first = ours.get("h.0.attn.c_attn.weight")
    if first is not None and first.dim() == 2 and first.size(1) == 3 * first.size(0):  # Conv1D
        for name in list(ours):
            if name.endswith(CONV1D) and ours[name].dim() == 2:
                ours[name] = ours[name].T
    return ours
