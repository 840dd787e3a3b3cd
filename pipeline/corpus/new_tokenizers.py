"""Makes tokenizers: of a corpus, of bytes, of one of tiktoken's encodings.

Training and all after it restore a tokenizer from its JSON and need none of this.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import tiktoken

from pipeline.corpus.tokenizers import GPT4_PATTERN, Tokenizer, finish, to_characters

LONGEST_WORD = 1000  # characters, in training a BPE: longer ones are cut


def tiktoken_tokenizer(encoding: tiktoken.Encoding) -> Tokenizer:
    """One of tiktoken's encodings (`ranks.tiktoken_encoding`)."""
    table: list[str | None] = [None] * encoding.n_vocab
    for token in encoding.token_byte_values():
        table[encoding.encode_single_token(token)] = to_characters(token)
    return finish(
        {
            "kind": encoding.name,
            "pattern": encoding._pat_str,
            "eot_id": encoding.eot_token,
            "tokens": table,
        }
    )


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE of `vocab_size` tokens, <|endoftext|> counted; fewer where the text has no more.

    The result depends on the text alone, not on how it is cut into `texts` where each cut is one
    that `readers` makes.
    """
    # slow to import, and needed here only
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    model = HuggingFaceTokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4_PATTERN), behavior="isolated"),
            # merges of a word take time by its length squared
            pre_tokenizers.Split(Regex(rf"[\s\S]{{{LONGEST_WORD}}}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stopped = False

    def until_stopped() -> Iterator[str]:
        for text in texts:
            if stopped:
                raise KeyboardInterrupt
            yield text

    with ThreadPoolExecutor(1) as thread:  # Ctrl-C reaches this one only while it is in Python
        try:
            thread.submit(model.train_from_iterator, until_stopped(), trainer).result()
        except BaseException:
            stopped = True
            raise
    merges = [" ".join(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    return finish({"kind": "bpe", "pattern": GPT4_PATTERN, "merges": merges})


def char_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A token for each character in `texts`, by code point."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    return finish({"kind": "char", "characters": "".join(sorted(characters))})


def byte_tokenizer() -> Tokenizer:
    """A token for each byte."""
    return finish({"kind": "byte", "characters": ""})
