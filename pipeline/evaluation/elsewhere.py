"""Any model on any text: what `evaluate --checkpoint` and `evaluate --text` print."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.corpus.token_file import load_split
from pipeline.errors import CorpusError
from pipeline.evaluation.metrics import check_tokenizer
from pipeline.evaluation.perplexity import Score, score_split
from pipeline.model.pretrained import load_pretrained
from pipeline.params import Params
from pipeline.paths import TOKENS
from pipeline.training.runtime import place

NO_PLAIN_TEXT = (".jsonl", ".gz", ".zst", ".parquet", ".pt")


class Scored(NamedTuple):
    """A text and how well a model predicts it."""

    name: str
    score: Score
    bits_per_byte: float
    word_perplexity: float | None  # of a text with words, not of tokens


def score_elsewhere(params: Params, checkpoint: str, text: Path | None) -> list[Scored]:
    """The scores of any model on the splits, or on a text that starts after <|endoftext|>."""
    pretrained = load_pretrained(checkpoint)
    model, tokenizer = pretrained.model, pretrained.load_tokenizer()
    place(model, params.train)
    words = 0
    if text is not None:
        written = _read_text(text)
        words = len(written.split())
        tokens = {text.name: np.concatenate(([tokenizer.eot_id], tokenizer.encode(written)))}
    else:
        check_tokenizer(checkpoint, tokenizer, "--text FILE, or the same prepare.tokenizer")
        splits = {name: load_split(TOKENS, name).tokens[:] for name in ("val", "test")}
        tokens = {name: ids for name, ids in splits.items() if len(ids)}
        if not tokens:
            raise CorpusError(f"{TOKENS}: val and test are empty; allowed: --text FILE")
    found = []
    for name, ids in tokens.items():
        score = score_split(
            model,
            ids,
            overlap=params.evaluate.overlap,
            batch_size=params.evaluate.batch_size,
            name=name,
            block_size=max(1, min(model.config.block_size, len(ids) - 1)),
        )
        text_bytes = tokenizer.text_size(ids[1:])
        per_word = None
        if words:
            nats = score.nats / words  # of a text without spaces: of one long word
            per_word = math.exp(nats) if nats < 700 else math.inf
        found.append(Scored(name, score, score.bits_per_byte(text_bytes), per_word))
    return found


def _read_text(path: Path) -> str:
    if path.is_dir() or path.suffix.lower() in NO_PLAIN_TEXT:
        found = "a folder" if path.is_dir() else path.suffix
        raise CorpusError(
            f"{path}: --text: found {found}; allowed: plain text "
            "(corpus.path and `dvc repro` take the others)"
        )
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None
    text = text.removeprefix("\ufeff")
    if not text:
        raise CorpusError(f"{path}: --text: found nothing; allowed: a file with text")
    return text
