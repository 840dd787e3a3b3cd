"""Text to token ids and back, for any Unicode, by five kinds of tokenizer.

gpt2  GPT-2's byte-level BPE (Radford et al. 2019, §2.2): 50,257 tokens
bpe   a byte-level BPE trained on the corpus' train split, with GPT-4's split pattern
char  a token for each character of the train split, bytes for every other one
byte  a token for each byte
r50k_base, p50k_base, cl100k_base, o200k_base: tiktoken's encodings by their names

<|endoftext|>, which stands between documents, is the last id, but for tiktoken's encodings, which
say where; the text "<|endoftext|>" in a document is ordinary text. A tokenizer is restored from its
JSON alone: tokenizer.json, or the same value in a checkpoint. The JSON holds its own sha256, which
is checked when it is read.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken

from pipeline.corpus.token_stream import PART, TokenStream
from pipeline.errors import CorpusError, TokenFileError
from pipeline.storage import read_json, sha256_json, write_json

END_OF_TEXT = "<|endoftext|>"
OLDER_FILES = ("vocab.json", "merges.txt")  # of Hugging Face's GPT-2s, in place of tokenizer.json
Ids = npt.NDArray[np.int64]

# tiktoken's form of the pattern in GPT-2's encoder.py: the same function, faster
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# GPT-4's. tiktoken's cl100k_base writes \p{N}{1,3}+, which the trainer's Oniguruma reads as "one or
# more times one to three digits": this form means the same to both.
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)

KINDS = ("gpt2", "bpe", "char", "byte", "r50k_base", "p50k_base", "cl100k_base", "o200k_base")

# GPT-2's alphabet: a printable character for each byte, itself where it is printable. Its order
# is also that of the ids 0 to 255.
_PRINTABLE = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
_BYTES = _PRINTABLE + [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + n): byte for n, byte in enumerate(_BYTES[len(_PRINTABLE) :])
}
_CHARACTER_OF = {byte: character for character, byte in _BYTE_OF.items()}


class Tokenizer(ABC):
    """What the kinds share: a table of each id's bytes, and the JSON that restores it."""

    def __init__(self, definition: dict[str, Any], token_bytes: list[bytes]) -> None:
        """token_bytes: of each id; none for <|endoftext|>, which is added where it is the last."""
        self.kind: str = definition["kind"]
        self.sha256: str = definition["sha256"]
        self.eot_id: int = definition.get("eot_id", len(token_bytes))
        self._definition = definition
        self._token_bytes = token_bytes if "eot_id" in definition else [*token_bytes, b""]
        self.vocab_size = len(self._token_bytes)

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """The ids of ordinary text; never <|endoftext|>."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD, eot_id "<|endoftext|>"."""
        parts = [
            self._token_bytes[int(n)] if n != self.eot_id else END_OF_TEXT.encode() for n in ids
        ]
        return b"".join(parts).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of text that an id stands for; none for eot_id."""
        return self._token_bytes[token_id]

    @cached_property
    def token_sizes(self) -> Ids:
        """(vocab_size,): how many bytes of text each id stands for."""
        return np.array([len(data) for data in self._token_bytes])

    def text_size(self, ids: TokenStream) -> int:
        """How many bytes of text the ids stand for."""
        parts = range(0, len(ids), PART)
        return sum(int(self.token_sizes[ids[start : start + PART]].sum()) for start in parts)

    def same_ids(self, other: "Tokenizer") -> bool:
        """Whether both give every text the same ids: gpt2 and r50k_base are two names of one."""
        one, two = (
            {key: value for key, value in each.to_json().items() if key not in ("kind", "sha256")}
            for each in (self, other)
        )
        return one == two

    def to_json(self) -> dict[str, Any]:
        """The value that from_json restores the tokenizer from."""
        return self._definition

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        write_json(path, self._definition)


class BPETokenizer(Tokenizer):
    """Byte-level BPE, its tokens written in GPT-2's byte alphabet.

    Defined by its merges, each two tokens, as in GPT-2's vocab.bpe; or, as tiktoken has it, by its
    tokens in the order of their ids, null where an id is special or unused.
    """

    def __init__(self, definition: dict[str, Any]) -> None:
        if "tokens" in definition:
            table = [to_bytes(token or "") for token in definition["tokens"]]
            ranks = {token: rank for rank, token in enumerate(table) if token}
        else:
            ranks = {bytes([byte]): rank for rank, byte in enumerate(_BYTES)}
            for merge in definition["merges"]:
                first, second = merge.split(" ")
                ranks.setdefault(to_bytes(first) + to_bytes(second), len(ranks))
            table = list(ranks)
        super().__init__(definition, table)
        own = definition["pattern"] in (GPT2_PATTERN, GPT4_PATTERN)
        self._is_foreign = self.kind == "bpe" and not own  # its pattern may take no notice of some
        self._encoding = tiktoken.Encoding(
            definition["kind"],
            pat_str=faster(definition["pattern"]),
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.eot_id},
        )

    def encode(self, text: str) -> Ids:
        try:
            ids = self._encoding.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        except ValueError as error:  # the pattern's engine, at about a million spaces
            raise CorpusError(
                f"prepare.tokenizer: found {self.kind}, which cannot split the text into words: "
                f"{error}; allowed: shorter runs of white space (it takes about a million), or byte"
            ) from None
        if self._is_foreign and self.text_size(ids) != utf8_length(text):
            raise CorpusError(
                f"prepare.tokenizer: found {self.kind}, whose pattern passes over some of the "
                "text's characters; allowed: a pattern that takes every one"
            )
        return ids.astype(np.int64)


def faster(pattern: str) -> str:
    r"""The same split, in half the time.

    tiktoken's engine hands what is plain to a finite automaton and backtracks over the rest, here
    the lookahead of `\s+(?!\S)` and the possessive quantifiers. So everything before the lookahead
    becomes one plain group. Possessive or greedy is the same in these patterns: what follows such a
    quantifier never takes a character that it takes, or is the text's end.
    """
    plain, lookahead, rest = pattern.partition(r"|\s+(?!\S)")
    plain = re.sub(r"([?*+]|\{\d,\d\})\+", r"\1", plain)
    return f"(?:{plain}){lookahead}{rest}"


class CharTokenizer(Tokenizer):
    """The characters in order, then the 256 bytes; `byte` is the case of no characters."""

    def __init__(self, definition: dict[str, Any]) -> None:
        characters: str = definition["characters"]
        alphabet = [character.encode("utf-8") for character in characters]
        super().__init__(definition, alphabet + [bytes([byte]) for byte in range(256)])
        self._codes = np.array([ord(character) for character in characters], dtype=np.uint32)

    def encode(self, text: str) -> Ids:
        data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
        ids: Ids = data.astype(np.int64) + len(self._codes)
        if not len(self._codes):
            return ids
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        index = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        known = self._codes[index] == codes
        # a known character's first byte becomes its id, and its other bytes go
        first = (data & 0xC0) != 0x80
        character = np.cumsum(first) - 1  # of each byte
        ids[np.flatnonzero(first)[known]] = index[known]
        kept: Ids = ids[first | ~known[character]]
        return kept


def gpt2_tokenizer(merges: list[str], kind: str = "gpt2") -> Tokenizer:
    """GPT-2's, from the merges of its release (`ranks.gpt2_merges`); r50k_base is the same."""
    return finish({"kind": kind, "pattern": GPT2_PATTERN, "merges": merges})


def from_json(value: Any, where: str = "tokenizer") -> Tokenizer:
    """Restore a tokenizer; raises TokenFileError, beginning with `where`, if it was changed."""
    try:
        content = {key: item for key, item in value.items() if key != "sha256"}
        found, stated = sha256_json(content), value["sha256"]
        if found != stated:
            raise TokenFileError(f"{where}: found sha256 {found}; it states {stated}")
        kind = value["kind"]
        if kind in ("char", "byte"):
            return CharTokenizer(value)
        if kind in KINDS:
            return BPETokenizer(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise TokenFileError(f"{where}: not a tokenizer of this pipeline") from None
    raise TokenFileError(f"{where}: kind: found {kind!r}; allowed: {', '.join(KINDS)}")


def load(path: Path, remedy: str = "run `dvc repro prepare`") -> Tokenizer:
    """Read tokenizer.json; raises TokenFileError where it is missing, cut short or changed."""
    return from_json(read_json(path, TokenFileError, remedy), where=str(path))


def finish(content: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a definition that lacks only its sha256."""
    return from_json({**content, "sha256": sha256_json(content)})


def utf8_length(text: str) -> int:
    """The text's length in UTF-8, bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def to_bytes(token: str) -> bytes:
    """The bytes of a token written in GPT-2's byte alphabet."""
    return bytes(_BYTE_OF[character] for character in token)


def to_characters(token: bytes) -> str:
    """A token in GPT-2's byte alphabet."""
    return "".join(_CHARACTER_OF[byte] for byte in token)
