"""Token lists into splits: what splits.py and encoding.py do for text."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.corpus.encoding import Encoded
from pipeline.corpus.splits import SPLITS, check_documents, document_split, split_bounds
from pipeline.corpus.tokenizers import Ids, Tokenizer
from pipeline.errors import CorpusError


def check_ids(documents: list[Ids], path: Path, tokenizer: Tokenizer) -> None:
    """Raise CorpusError where an id is not one of the tokenizer's."""
    vocab_size = tokenizer.vocab_size
    used = tokenizer.token_sizes > 0
    used[tokenizer.eot_id] = True
    for place, ids in enumerate(documents):
        foreign = ids[(ids < 0) | (ids >= vocab_size)]
        if not len(foreign):
            foreign = ids[~used[ids]]
        if len(foreign):
            unused = "" if used.all() else f", but {np.count_nonzero(~used)} that have no text"
            raise CorpusError(
                f"{path}: [{place}]: found id {foreign[0]}; allowed: 0 to {vocab_size - 1}{unused} "
                f"(prepare.tokenizer: {tokenizer.kind})"
            )


def split_lists(
    documents: list[Ids], split_by: str, val_fraction: float, test_fraction: float, eot_id: int
) -> Iterator[tuple[str, Ids, bool]]:
    """(split, ids, whether a document ends here), as splits.py has it with ids for bytes.

    A document is in the same split with and without <|endoftext|> at its end.
    """
    documents = [ids for ids in documents if len(ids)]
    if split_by == "document":
        texts = [ids[:-1] if ids[-1] == eot_id else ids for ids in documents]
        names = [
            document_split(hashlib.sha256(ids.tobytes()).digest(), val_fraction, test_fraction)
            for ids in texts
        ]
        check_documents(bytes(map(SPLITS.index, names)), val_fraction, test_fraction)
        for split, ids in zip(names, documents, strict=True):
            yield split, ids, True
        return
    total = sum(len(ids) for ids in documents)
    bounds = split_bounds(total, val_fraction, test_fraction, unit="ids")
    offset = 0
    for ids in documents:
        for split, (start, stop) in bounds.items():
            part = ids[max(start - offset, 0) : max(stop - offset, 0)]
            if len(part):
                yield split, part, stop >= offset + len(ids)
        offset += len(ids)


def encode_lists(
    parts: Iterable[tuple[str, Ids, bool]], tokenizer: Tokenizer, end_documents: bool
) -> Iterator[Encoded]:
    """What encoding.py gives for text; <|endoftext|> is added where a document has none."""
    for split, ids, is_end in parts:
        size = tokenizer.text_size(ids)
        if is_end and end_documents and ids[-1] != tokenizer.eot_id:
            ids = np.append(ids, tokenizer.eot_id)
        yield Encoded(split, ids, [len(ids)], [is_end], size)
