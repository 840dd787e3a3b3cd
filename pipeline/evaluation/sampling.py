"""Drawing text from a model, one token at a time.

**The same seed gives the same text, whatever is drawn beside it.** A draw's n-th random number
is a function of (its seed, n), and nothing else is random. A product's rounding depends on its
shape, so draws run in groups of a fixed number of rows, the same for one draw as for many: one
row on a CPU, where a product with a vector costs so little that more rows gain nothing up to
eight; several on an accelerator.

**The context** grows to block_size tokens and is then cut to its last half, block_size // 2, from
where it grows again; a longer prompt is cut so at once. A cache then has to be filled anew only
once in block_size / 2 tokens. The rule is the same with and without a cache, and so are the
tokens, but for a draw that falls within rounding (about 1e-6) of the border between two.

**A strategy** turns logits into a choice, in this order: repetition penalty (Keskar et al. 2019,
§4.1), temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pipeline.corpus.tokenizers import Tokenizer
from pipeline.model.gpt import GPT, LayerCache
from pipeline.params import SampleParams
from pipeline.randomness import seed_for

ROWS = {"cpu": 1, "cuda": 8, "mps": 8}  # of a group


@dataclass(frozen=True)
class Strategy:
    """How a token is chosen; the defaults draw from the model's own distribution."""

    temperature: float = 1.0  # divides the logits; 0 takes the likeliest token
    top_k: int = 0  # likeliest tokens kept, 0 for all
    top_p: float = 1.0  # likeliest tokens kept, until their probabilities reach it
    min_p: float = 0.0  # tokens kept, by their probability over the likeliest one's
    repetition_penalty: float = 1.0  # makes the tokens of the text so far less likely, 1 for none


def as_set(sample: SampleParams) -> Strategy:
    """The strategy of params.yaml."""
    names = {field.name for field in fields(Strategy)}
    return Strategy(**sample.model_dump(include=names))


def compared_strategies(own: Strategy) -> dict[str, Strategy]:
    """What is shown side by side, by name; `own` is that of params.yaml."""
    return {
        "as set": own,
        "greedy": Strategy(temperature=0),
        "temperature 0.7": Strategy(temperature=0.7),
        "temperature 1": Strategy(),
        "top-k 40": Strategy(top_k=40),
        "top-p 0.9": Strategy(top_p=0.9),
        "min-p 0.1": Strategy(min_p=0.1),
        "greedy, penalty 1.3": Strategy(temperature=0, repetition_penalty=1.3),
    }


@dataclass(frozen=True)
class Draw:
    """One sample to draw."""

    strategy: Strategy
    seed: int


def stream(
    model: GPT,
    prompt: list[int],
    draws: Sequence[Draw],
    *,
    max_new_tokens: int,
    stopped: set[int],
    use_cache: bool = True,
) -> Iterator[tuple[int, int]]:
    """(number of the draw, its next id) as they are drawn, after `prompt` of at least one id.

    stopped: numbers of the draws that are over; the caller adds to it.
    """
    model.eval()
    rows = ROWS[next(model.parameters()).device.type]
    for first in range(0, len(draws), rows):
        group = list(range(first, min(first + rows, len(draws))))
        context = _Context(model, prompt, rows, use_cache)
        texts = {number: list(prompt) for number in group}
        for step in range(max_new_tokens):
            if stopped.issuperset(group):
                break
            logits = context.next_logits()
            chosen = [0] * rows  # 0 in the rows that are over, or past the group's end
            for row, number in enumerate(group):
                if number not in stopped:
                    draw = draws[number]
                    uniform = seed_for(draw.seed, "token", step) / 2**63
                    chosen[row] = choose(logits[row], draw.strategy, texts[number], uniform)
                    texts[number].append(chosen[row])
                    yield number, chosen[row]
            context.append(chosen)


def generate(
    model: GPT,
    prompt: list[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_samples: int = 1,
    stop_id: int | None = None,
    use_cache: bool = True,
) -> list[list[int]]:
    """New ids of each sample; the first has the seed `seed`, the next `seed` + 1, and so on.

    A sample ends at stop_id, which is not part of it. Raises ValueError for a prompt of no id.
    """
    if not prompt:
        raise ValueError("prompt: found no id; allowed: one or more, as [tokenizer.eot_id]")
    strategy = Strategy(temperature, top_k, top_p, min_p, repetition_penalty)
    draws = [Draw(strategy, seed + number) for number in range(num_samples)]
    drawn: list[list[int]] = [[] for _ in draws]
    stopped: set[int] = set()
    for number, token in stream(
        model, prompt, draws, max_new_tokens=max_new_tokens, stopped=stopped, use_cache=use_cache
    ):
        if token == stop_id:
            stopped.add(number)
        else:
            drawn[number].append(token)
    return drawn


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt; an empty one starts afresh, from <|endoftext|>."""
    return tokenizer.encode(prompt).tolist() or [tokenizer.eot_id]


def choose(logits: Tensor, strategy: Strategy, seen: list[int], uniform: float) -> int:
    """The id that a strategy takes by logits (V,) after the ids `seen`.

    uniform: the random number in [0, 1) that decides.
    """
    if strategy.repetition_penalty != 1:
        penalty, ids = strategy.repetition_penalty, torch.tensor(sorted(set(seen)))
        found = logits[ids]
        logits = logits.index_put((ids,), torch.where(found > 0, found / penalty, found * penalty))
    if strategy.temperature == 0:
        return int(logits.argmax())
    kept, ids = logits.topk(min(strategy.top_k or len(logits), len(logits)))  # likeliest first
    kept = kept.double() - kept[0]  # at most 0: the smallest temperature gives no infinity
    probabilities = (kept / strategy.temperature).softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # what likelier tokens have together
    enough = (before < strategy.top_p) & (probabilities >= strategy.min_p * probabilities[0])
    enough[0] = True
    cumulative = (probabilities * enough).cumsum(dim=-1)
    place = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return int(ids[min(int(place), int(enough.nonzero()[-1]))])


class _Context:
    """What a group's rows have read, and the logits of what follows."""

    def __init__(self, model: GPT, prompt: list[int], rows: int, use_cache: bool) -> None:
        self.model, self.rows, self.use_cache = model, rows, use_cache
        self.device = next(model.parameters()).device
        self.cache: list[LayerCache] | None = None
        self.idx = torch.tensor([prompt] * rows, device=self.device)  # (rows, T), T <= block_size
        self._cut()

    def append(self, ids: list[int]) -> None:
        """Read one more id in each row."""
        new = torch.tensor(ids, device=self.device)[:, None]
        self.idx = torch.cat((self.idx, new), dim=1)
        self._cut()

    def _cut(self) -> None:
        block_size = self.model.config.block_size
        if self.idx.size(1) > block_size:
            self.idx = self.idx[:, -max(1, block_size // 2) :]
            self.cache = None  # its positions were counted from another start

    @torch.inference_mode()
    def next_logits(self) -> Tensor:
        """(rows, V), on the CPU."""
        if self.use_cache and self.cache is None:
            self.cache = self.model.new_cache(self.rows)
        read = self.cache[0].length if self.cache else 0
        features = self.model.features(self.idx[:, read:], self.cache)[:, -1]  # (rows, C)
        return self.model.capped(self.model.lm_head(features)).float().cpu()
