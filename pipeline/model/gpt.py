"""GPT-2 and two modern descendants, in one file of plain torch.

`gpt2` is GPT-2 exactly (Radford et al. 2019): learned positions, LayerNorm before each part,
GELU with the tanh approximation, a head tied to the token embedding, residual projections
initialised smaller by 1 / sqrt(2 n_layer).

`modern` is the function of `NanoChatForCausalLM` in transformers, its soft-capping only where
weights from elsewhere have it: rotary positions (Su et al. 2021), RMSNorm without parameters (also
right after the embedding), queries and keys normalised after the rotation, ReLU squared (So et al.
2021), an untied head, no biases, residual projections and head initialised to zero.

`canon` is `modern` with three additions, a better model for the same time that transformers has no
class for: a Canon layer before each MLP, which so also reads the three tokens before each
(Allen-Zhu 2025); value embeddings, tables of their own that add to attention's values in every
second block (Zhou et al. 2024; as in nanochat, Karpathy 2025); and keys of which half, the
channels without rotary positions, are of the token before, so that one layer finds what followed
a token earlier in the text (as in modded-nanogpt, Jordan et al. 2024).

Shapes: B sequences, T tokens, C channels, V vocabulary, H heads, D head size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ARCHITECTURES = ("gpt2", "modern", "canon")
NORM_EPS = {"gpt2": 1e-5, "modern": 1e-6}
ROPE_BASE = 10_000.0
QUERY_BLOCK = 128  # tokens; a shorter block skips more of the future, in smaller products
GELU_SLOPE = math.sqrt(8 / math.pi)
HEAD_BLOCK = 16384  # of the vocabulary: on a CPU the widest product that is fast
CANON_TAPS = 3  # tokens before each that a Canon layer reads
IGNORE = -1  # a target that counts for nothing: padding


@dataclass(frozen=True)
class GPTConfig:
    """What fixes the network's function and the shapes of its weights."""

    architecture: str  # of ARCHITECTURES
    n_layer: int
    n_head: int  # divides n_embd
    n_embd: int
    block_size: int  # longest context, tokens
    vocab_size: int
    dropout: float = 0.0
    bias: bool = True  # gpt2 only
    gelu: str = "tanh"  # gpt2 only: tanh, as OpenAI computes it, or none, the exact one (nanoGPT)
    softcap: float = 0.0  # what no logit exceeds in size, 0 for no such bound (NanoChat's is 15)


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), eps=NORM_EPS["modern"])


class Linear(nn.Linear):
    """Zeros at first: `GPT.initialise` or a file gives the weights, and none are drawn in vain."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class Embedding(nn.Embedding):
    """Zeros at first, as `Linear`."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


def norm(config: GPTConfig) -> nn.Module:
    """What each part reads its input through."""
    if config.architecture == "gpt2":
        return nn.LayerNorm(config.n_embd, NORM_EPS["gpt2"], bias=config.bias)
    return nn.RMSNorm(config.n_embd, NORM_EPS["modern"], elementwise_affine=False)


def rotated_pairs(config: GPTConfig) -> tuple[int, int]:
    """Of a head's pairs of channels how many, the first, carry positions, and all, D / 2."""
    pairs = config.n_embd // config.n_head // 2
    return pairs - pairs // 2 if config.architecture == "canon" else pairs, pairs


def rotary_tables(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, each (T, D / 2)."""
    cpu = torch.device("cpu")  # for build_model's too: meta's arithmetic loads torch's compiler
    rotated, pairs = rotated_pairs(config)
    frequencies = ROPE_BASE ** -(torch.arange(rotated, device=cpu).float() / rotated)
    frequencies = F.pad(frequencies, (0, pairs - rotated))
    angles = torch.outer(torch.arange(config.block_size, device=cpu).float(), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D / 2]) of (B, H, T, D) by its position's angle."""
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def from_before(k: Tensor, rotated: int) -> Tensor:
    """Keys (B, H, T, D) with all but the rotated pairs from the token before, the first's zeros."""
    parts = zip(k.chunk(2, -1), F.pad(k, (0, 0, 1, -1)).chunk(2, -1), strict=True)
    halves = [torch.cat((own[..., :rotated], before[..., rotated:]), -1) for own, before in parts]
    return torch.cat(halves, -1)


class LayerCache:
    """One layer's keys and values of the tokens read so far, (B, H, T, D)."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.k, self.v = (torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in "kv")
        B, H, _, D = shape
        self.before = like.new_zeros(B, CANON_TAPS, H * D)  # what its Canon layer read last
        self.length = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, with those of new ones added."""
        start, self.length = self.length, self.length + k.size(2)
        self.k[:, :, start : self.length] = k
        self.v[:, :, start : self.length] = v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


class Canon(nn.Module):
    """Adds to each token's features those of the three before it, weighted by channel.

    A Canon layer (Allen-Zhu 2025, Physics of Language Models 4.1): a depthwise causal convolution
    with a residual; weight (C, 1, taps) as nn.Conv1d has it, the oldest token's tap first.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.n_embd, 1, CANON_TAPS))

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """(B, T, C) after `before`, (B, taps, C): there the newest are kept for the next call."""
        B, T, C = x.shape
        past = x.new_zeros(B, CANON_TAPS, C) if before is None else before.to(x.dtype)
        text = torch.cat((past, x), dim=1)  # (B, taps + T, C)
        if before is not None:
            before.copy_(text[:, -CANON_TAPS:])
        taps = self.weight.squeeze(1).T.to(x.dtype).contiguous()  # (taps, C)
        for i, tap in enumerate(taps):
            x = x + text[:, i : i + T] * tap
        return x


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.rotated, self.pairs = rotated_pairs(config)
        bias = config.bias and config.architecture == "gpt2"
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, bias=bias)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=bias)
        self.kernel = "sdpa"
        self.mask: Tensor | None  # (T, T), for products alone
        self.register_buffer("mask", None, persistent=False)

    def forward(
        self,
        x: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        cache: LayerCache | None,
        values: Tensor | None,
    ) -> Tensor:
        B, T, C = x.shape
        parts = self.c_attn(x).split(C, dim=2)  # and no fifth dimension, whose gradient is slow
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head) for part in parts)
        if values is not None:  # each token's own, (B, T, C)
            v = v + values.to(v.dtype).view(v.shape)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        if cos is not None and sin is not None:
            q, k = rms_norm(rotate(q, cos, sin)), rms_norm(rotate(k, cos, sin))
            q, k = q.to(v.dtype), k.to(v.dtype)
        if cache is not None:  # many tokens into an empty cache, or one, which sees all before it
            k, v = cache.extend(k, v)
        if self.rotated < self.pairs:
            k = from_before(k, self.rotated)
        dropout = self.dropout if self.training else 0.0
        if self.kernel == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=T > 1)
        else:
            y = self.products(q, k, v, dropout)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # type: ignore[no-any-return]

    def products(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Causal attention by plain products, (B, H, T, D): on a CPU faster than fused kernels for
        short contexts. Queries go in blocks, and no block meets the keys that follow it."""
        assert self.mask is not None
        before, T = k.size(2) - q.size(2), q.size(2)
        parts = []
        for start in range(0, T, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, T)
            keys = before + end
            scores = q[:, :, start:end] @ k[:, :, :keys].mT * (1.0 / math.sqrt(q.size(-1)))
            scores = scores + self.mask[before + start : keys, :keys]  # (B, H, block, keys)
            weights = F.dropout(scores.softmax(dim=-1), dropout).to(v.dtype)
            parts.append(weights @ v[:, :, :keys])
        return torch.cat(parts, dim=2)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.modern, self.gelu = config.architecture != "gpt2", config.gelu
        bias = config.bias and not self.modern
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, bias=bias)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)  # (B, T, 4C)
        if self.modern:
            x = F.relu(x).square()
        elif self.gelu == "tanh" and torch.compiler.is_compiling():
            x = x * torch.sigmoid(GELU_SLOPE * (x + 0.044715 * x * x * x))  # exp for tanh: faster
        else:
            x = F.gelu(x, approximate=self.gelu)
        return self.c_proj(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = norm(config)
        self.attn = Attention(config)
        self.ln_2 = norm(config)
        self.mlp = MLP(config)
        self.canon = Canon(config) if config.architecture == "canon" else None
        self.dropout = config.dropout

    def forward(
        self,
        x: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        cache: LayerCache | None,
        values: Tensor | None,
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        x = x + F.dropout(self.attn(self.ln_1(x), cos, sin, cache, values), dropout)
        y = self.ln_2(x)
        if self.canon is not None:
            y = self.canon(y, None if cache is None else cache.before)
        return x + F.dropout(self.mlp(y), dropout)


class Tied(torch.autograd.Function):
    """A weight (V, C) for the head, and its rows for ids (B, T), both of one node of the graph.

    So the rows' gradients are added to the head's in one loop where this is compiled, and those of
    equal ids are summed in their own precision first, as the head's may be less.
    `head` and `table` hold the same weight, perhaps in two precisions; its gradient is the head's.
    """

    @staticmethod
    def forward(ctx: Any, head: Tensor, table: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(idx)
        return head.view_as(head), F.embedding(idx, table)

    @staticmethod
    def backward(ctx: Any, head: Tensor, rows: Tensor) -> tuple[Tensor, None, None]:
        idx = ctx.saved_tensors[0].flatten()
        rows = rows.flatten(0, 1)
        places = torch.arange(1, len(idx) + 1, dtype=idx.dtype, device=idx.device)
        # for each of the weight's rows one of its ids, any, or else 0, where sums stay zeros
        place = idx.new_zeros(len(head)).index_put((idx,), places)
        sums = rows.new_zeros(len(idx) + 1, rows.size(1))
        sums = sums.index_put((place[idx],), rows, accumulate=True)
        return (head + sums[place]).to(head.dtype), None, None


class GPT(nn.Module):
    """A decoder-only transformer: token ids in, next-token logits and loss out.

    Its weights are zeros until `initialise` or `load_state_dict`; see `from_pretrained`.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        gpt2 = self.tied = config.architecture == "gpt2"
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd) if gpt2 else None
        tables = (config.n_layer + 1) // 2 if config.architecture == "canon" else 0
        self.values = nn.ModuleList(
            Embedding(config.vocab_size, config.n_embd) for _ in range(tables)
        )
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = norm(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        if self.tied:
            self.lm_head.weight = self.wte.weight
        else:
            cos, sin = rotary_tables(config)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: str = "cpu") -> "GPT":
        """A model of OpenAI's GPT-2 (`gpt2`, `gpt2-xl`, ...), a Hugging Face folder or a weights
        file, in eval mode; see model/pretrained.py for what is read."""
        try:  # transformers asks for all that a copy of this file imports, but for what is tried
            from pipeline.model.pretrained import load_pretrained
        except ModuleNotFoundError:
            raise ImportError("GPT.from_pretrained needs TraceGPT, not this file alone") from None
        return load_pretrained(name_or_path).model.to(device).eval()

    def initialise(self, seed: int) -> None:
        """Draw all weights from `seed` alone, as GPT-2 §2.3 or nanochat do."""
        generator = torch.Generator().manual_seed(seed)
        gpt2, config = self.config.architecture == "gpt2", self.config
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 1:
                nn.init.ones_(parameter)
            elif "canon" in name:  # as nn.Conv1d's of four taps, the token's own among them
                bound = 1 / math.sqrt(CANON_TAPS + 1)
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif gpt2:
                std = 0.02 / math.sqrt(2 * config.n_layer) if "c_proj" in name else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            elif "c_proj" in name or name == "lm_head.weight":
                nn.init.zeros_(parameter)
            elif name == "wte.weight":
                nn.init.normal_(parameter, std=1.0, generator=generator)
            else:  # Glorot for what widens, 1 / sqrt(fan_in): the spectral condition (Yang 2023)
                nn.init.normal_(parameter, std=1 / math.sqrt(config.n_embd), generator=generator)

    def set_attention(self, kernel: str) -> None:
        """Compute attention by torch's fused kernels (`sdpa`) or by plain products (`matmul`)."""
        mask = None
        if kernel == "matmul":  # added: as fast as a comparison is slow
            size, device = self.config.block_size, self.wte.weight.device
            mask = torch.full((size, size), -torch.inf, device=device).triu(1)
        for block in self.h:
            block.attn.kernel = kernel  # type: ignore[union-attr]
            block.attn.mask = mask  # type: ignore[union-attr]

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and the first blocks as they are; a tied head is an embedding."""
        for part in (self.wte, self.wpe, self.values, *self.h[:layers]):
            if part is not None:
                part.requires_grad_(False)

    def new_cache(self, batch_size: int) -> list[LayerCache]:
        """An empty cache, a part for each layer, for `features` to read and extend."""
        config, weight = self.config, self.wte.weight
        shape = (batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        return [LayerCache(shape, weight) for _ in self.h]

    def features(self, idx: Tensor, cache: list[LayerCache] | None = None) -> Tensor:
        """What the head reads, (B, T, C), for ids (B, T).

        With a cache, ids are those that follow what it holds: any number into an empty one,
        then one at a time.
        """
        return self._blocks(idx, self.wte(idx), cache)

    def _blocks(self, idx: Tensor, x: Tensor, cache: list[LayerCache] | None = None) -> Tensor:
        start = cache[0].length if cache else 0
        end = start + x.size(1)
        if end > self.config.block_size:
            raise ValueError(f"{end} tokens are longer than block_size {self.config.block_size}")
        assert start == 0 or x.size(1) == 1
        cos = sin = None
        if self.wpe is not None:
            x = x + self.wpe(torch.arange(start, end, device=x.device))  # (B, T, C)
            x = F.dropout(x, self.config.dropout, self.training)
        else:
            cos, sin = self.cos[start:end], self.sin[start:end]  # type: ignore[index]
            x = rms_norm(x)
        for i, block in enumerate(self.h):
            # every second block, the last among them
            has_values = len(self.values) > 0 and (self.config.n_layer - i) % 2 == 1
            values = self.values[i // 2](idx) if has_values else None
            x = block(x, cos, sin, cache[i] if cache else None, values)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def _logits(self, features: Tensor, weight: Tensor) -> Tensor:
        """(B, T, V), in products of sizes that are fast."""
        V = self.config.vocab_size
        if V <= HEAD_BLOCK:
            return F.linear(features, weight)
        if features.is_cuda:
            return F.linear(features, F.pad(weight, (0, 0, 0, -V % 128)))[..., :V]
        return torch.cat([F.linear(features, part) for part in torch.split(weight, HEAD_BLOCK)], -1)

    def capped(self, logits: Tensor) -> Tensor:
        """Logits of any shape, bent smoothly below config.softcap (Gemma 2, 2024, §2)."""
        cap = self.config.softcap
        return cap * torch.tanh(logits.float() / cap) if cap else logits

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of ids (B, T), and with targets (B, T) their mean loss in nats.

        A target of -1 counts for nothing.
        """
        if self.tied:
            weight, rows = Tied.apply(  # type: ignore[no-untyped-call]
                self.lm_head.weight, self.wte.weight.detach(), idx
            )
        else:
            weight, rows = self.lm_head.weight, self.wte(idx)
        logits = self.capped(self._logits(self._blocks(idx, rows), weight))
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        return logits, loss

    def count_parameters(self) -> int:
        """All numbers of its weights, a tied head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self) -> int:
        """Forward and backward FLOPs of one token: 6 a matrix weight, 12 n_layer C T attention.

        PaLM appendix B (Chowdhery et al. 2022); embedding look-ups cost nothing, the head counts.
        """
        config = self.config
        weights = 12 * config.n_layer * config.n_embd**2 + config.n_embd * config.vocab_size
        if config.architecture == "canon":
            weights += CANON_TAPS * config.n_layer * config.n_embd
        return 6 * weights + 12 * config.n_layer * config.n_embd * config.block_size
