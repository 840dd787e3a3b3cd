"""Text from a model, piece by piece: what the terminal and the demo page show as it comes.

Ids become text by whole characters. A draw ends at <|endoftext|>, at a stop string, of which
nothing is shown, or after max_new_tokens.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.corpus.tokenizers import Tokenizer
from pipeline.evaluation.sampling import Draw, prompt_ids, stream
from pipeline.model.gpt import GPT


@dataclass(frozen=True)
class Piece:
    """A part of a draw's text."""

    number: int  # of the draw
    text: str
    over: bool  # nothing follows it


def stream_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    draws: Sequence[Draw],
    *,
    max_new_tokens: int,
    stops: Sequence[str] = (),
) -> Iterator[Piece]:
    """The text of each draw after `prompt`, as it comes; the last piece of a draw says so."""
    stopped: set[int] = set()
    texts = [TextStream(tokenizer, stops) for _ in draws]
    left = [max_new_tokens] * len(draws)
    ids = prompt_ids(tokenizer, prompt)
    for number, token in stream(model, ids, draws, max_new_tokens=max_new_tokens, stopped=stopped):
        left[number] -= 1
        text = texts[number].add(token)
        over = texts[number].ended or not left[number]
        if over:
            stopped.add(number)
            text += texts[number].finish()
        yield Piece(number, text, over)


class TextStream:
    """Turns ids into text that later ids cannot change."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.ended = False
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # may be the beginning of a stop string

    def add(self, token: int) -> str:
        """The text that is certain once `token` has come."""
        if token == self._tokenizer.eot_id:
            self.ended = True
            return ""
        self._held += self._decoder.decode(self._tokenizer.token_bytes(token))
        return self._release()

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        self._held += self._decoder.decode(b"", final=True)
        text = self._release()
        rest, self._held = self._held, ""
        return text + rest

    def _release(self) -> str:
        found = [self._held.find(stop) for stop in self._stops if stop in self._held]
        if found:
            text, self._held, self.ended = self._held[: min(found)], "", True
            self._decoder.reset()
            return text
        held = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - held
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` begin `stop`."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
