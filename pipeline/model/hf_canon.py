"""A canon model as transformers opens it: `export --to hf` puts this file and gpt.py beside the
weights, and AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) runs them.

It stands outside of the pipeline: nothing here imports it, and transformers is no package of ours.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .gpt import GPT, GPTConfig, rotary_tables


class CanonConfig(PretrainedConfig):
    """GPTConfig's fields under its own names."""

    model_type = "tracegpt_canon"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "block_size",
    }

    def __init__(
        self,
        n_layer: int = 1,
        n_head: int = 1,
        n_embd: int = 2,
        block_size: int = 1,
        vocab_size: int = 1,
        dropout: float = 0.0,
        **rest: Any,
    ) -> None:
        self.n_layer, self.n_head, self.n_embd = n_layer, n_head, n_embd
        self.block_size, self.vocab_size, self.dropout = block_size, vocab_size, dropout
        super().__init__(**rest)


class CanonForCausalLM(PreTrainedModel, GenerationMixin):
    """The model of gpt.py; it reads whole contexts, without a cache."""

    config_class = CanonConfig
    base_model_prefix = "model"

    def __init__(self, config: CanonConfig) -> None:
        super().__init__(config)
        self.model = GPT(
            GPTConfig(
                "canon",
                config.n_layer,
                config.n_head,
                config.n_embd,
                config.block_size,
                config.vocab_size,
                config.dropout,
                bias=False,
            )
        )
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, GPT):  # the tables are in no file
            cos, sin = rotary_tables(module.config)
            module.cos.copy_(cos)
            module.sin.copy_(sin)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.wte

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        if attention_mask is not None and not bool((attention_mask[:, :1] == 1).all()):
            raise ValueError("padding on the left: found some; allowed: on the right, or none")
        logits, _ = self.model(input_ids)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Tensor]:
        return {"input_ids": input_ids[:, -self.config.block_size :]}
