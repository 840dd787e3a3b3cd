"""A canon model as transformers opens it: `export --to hf` puts this file and gpt.py beside the
weights, and AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) runs them.

It stands outside of the pipeline: nothing here imports it, and transformers is no package of ours.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import can_return_tuple

from .gpt import GPT, GPTConfig, LayerCache, rotary_tables


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


class Read:
    """The ids (B, T) that a model has read, and what its layers keep of them.

    It counts only for a text that begins with them, so that none that `generate` cuts or pads meets
    the keys of another.
    """

    def __init__(self, ids: Tensor, layers: list[LayerCache]) -> None:
        self.ids, self.layers = ids, layers

    def goes_on_as(self, ids: Tensor) -> bool:
        """Whether `ids` are these and one more."""
        return torch.equal(self.ids, ids[:, :-1])

    def reorder_cache(self, rows: Tensor) -> None:
        """Go on from these rows, as the best beams come from them."""
        self.ids = self.ids[rows]
        for layer in self.layers:
            layer.k, layer.v, layer.before = layer.k[rows], layer.v[rows], layer.before[rows]


@dataclass
class CanonOutput(CausalLMOutput):
    cache_params: Read | None = None  # a name that GenerationMixin hands on to the next call


class CanonForCausalLM(PreTrainedModel, GenerationMixin):
    """The model of gpt.py."""

    config_class = CanonConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _assisted_decoding(self, *_: Any, **__: Any) -> Any:
        raise ValueError("assisted generation takes tokens back, which a canon model cannot")

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

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, GPT):  # the tables are in no file
            cos, sin = rotary_tables(module.config)
            module.cos.copy_(cos)
            module.sin.copy_(sin)
            first = module.wte.weight
            if not first.is_meta and not first.any():  # none was read: a model to be trained
                module.initialise(int(torch.randint(2**31, ())))

    def get_input_embeddings(self) -> nn.Module:
        return self.model.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.wte = value

    def get_output_embeddings(self) -> nn.Module:
        return self.model.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.model.lm_head = value

    def resize_token_embeddings(self, *args: Any, **settings: Any) -> nn.Module:
        """Room for more tokens, in the value embeddings too."""
        resized = super().resize_token_embeddings(*args, **settings)
        size = resized.weight.size(0)
        for i, table in enumerate(self.model.values):
            self.model.values[i] = self._get_resized_embeddings(table, size)
        self.model.config = replace(self.model.config, vocab_size=size)
        return resized

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        cache_params: Read | None = None,
        use_cache: bool = False,
        num_items_in_batch: Any = None,
        **rest: Any,
    ) -> CanonOutput:
        """Logits (B, T, V), and with labels their mean loss; padding may stand on either side.

        use_cache: read on from cache_params, where that is what input_ids begin with, and give
        logits of the last token alone then; without padding and labels only. num_items_in_batch:
        by what a Trainer has the loss' sum divided. Raises ValueError for other arguments.
        """
        for name, value in rest.items():
            if value is not None and value is not False:
                raise ValueError(f"{name}: found a value; a canon model has no use for it")
        padded = attention_mask is not None and not bool(attention_mask.all())
        if use_cache and not padded and labels is None:
            if cache_params is None or not cache_params.goes_on_as(input_ids):
                nothing = input_ids[:, :0]
                cache_params = Read(nothing, self.model.new_cache(len(input_ids)))
            new = input_ids[:, cache_params.ids.size(1) :]
            cache_params.ids = input_ids
            logits = self.model.lm_head(self.model.features(new, cache_params.layers))
            return CanonOutput(logits=logits, cache_params=cache_params)
        if attention_mask is None or not padded:
            logits, _ = self.model(input_ids)
        else:
            turned, back = turned_to_the_right(attention_mask.bool())
            logits, _ = self.model(input_ids.gather(1, turned))
            logits = logits.gather(1, back[..., None].expand_as(logits))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        return CanonOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any
    ) -> dict[str, Any]:
        seen = slice(-self.config.block_size, None)
        mask = None if attention_mask is None else attention_mask[:, seen]
        kept = {name: rest[name] for name in ("cache_params", "use_cache") if name in rest}
        return {"input_ids": input_ids[:, seen], "attention_mask": mask, **kept}


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
