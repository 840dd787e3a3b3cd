"""A canon model as transformers opens it: `export --to hf` puts this file and gpt.py beside the
weights, and AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) runs them.

It stands outside of the pipeline: nothing here imports it, and transformers is no package of ours.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
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
        **rest: Any,
    ) -> CausalLMOutput:
        """Logits (B, T, V), and with labels their mean loss; padding may stand on either side."""
        if attention_mask is None:
            logits, _ = self.model(input_ids)
        else:
            turned, back = turned_to_the_right(attention_mask.bool())
            logits, _ = self.model(input_ids.gather(1, turned))
            logits = logits.gather(1, back[..., None].expand_as(logits))
        loss = None
        if labels is not None:  # rest: a Trainer says by what to divide the sum
            vocab_size = self.config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **rest)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        seen = slice(-self.config.block_size, None)
        mask = None if attention_mask is None else attention_mask[:, seen]
        return {"input_ids": input_ids[:, seen], "attention_mask": mask}


def turned_to_the_right(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where to take each token from, and to give its logits back to, both (B, T), so that padding
    stands on the right, where no token before it reads it; mask (B, T): true where none is."""
    padding = mask.int().argmax(dim=1, keepdim=True)  # (B, 1), on the left
    T = mask.size(1)
    places = torch.arange(T, device=mask.device)
    turned = (places + padding) % T
    if bool(mask.gather(1, turned).int().diff(dim=1).gt(0).any()):
        raise ValueError("attention_mask: found a gap; allowed: padding on the left or the right")
    return turned, (places - padding) % T
