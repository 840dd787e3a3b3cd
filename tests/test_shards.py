"""A split in shards is the same stream of ids as in one file, and is never half there."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.batches import Batches
from pipeline.corpus.new_tokenizers import byte_tokenizer
from pipeline.corpus.split_writer import SplitWriter
from pipeline.corpus.token_file import load_split, verify_tokens
from pipeline.corpus.token_stream import ShardedTokens, document_bounds, release
from pipeline.errors import TokenFileError

BYTES = byte_tokenizer()


def write(folder: Path, ids: list[int], shard_tokens: int, at_once: int = 3) -> Path:
    """One split of a prepared corpus."""
    with SplitWriter(folder, "train", "bin", BYTES, shard_tokens) as writer:
        for start in range(0, len(ids), at_once):
            writer.append(np.array(ids[start : start + at_once]))
        stated = writer.finish()
    BYTES.save(folder / "tokenizer.json")
    meta = {"format": "bin", "tokenizer": {"sha256": BYTES.sha256}, "splits": {"train": stated}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@settings(max_examples=40)
@given(
    ids=st.lists(st.integers(0, 256), max_size=40),
    shard_tokens=st.integers(1, 50),
    at_once=st.integers(1, 50),
)
def test_the_shards_read_as_the_ids_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], shard_tokens: int, at_once: int
) -> None:
    folder = write(tmp_path_factory.mktemp("tokens"), ids, shard_tokens, at_once)
    file = load_split(folder, "train")
    assert file.tokens[:].tolist() == ids
    files = sorted(path.name for path in folder.glob("train*"))
    count = max(1, -(-len(ids) // shard_tokens))
    if count == 1:
        assert files == ["train.bin"]
    else:
        assert files == [f"train-{n:05d}.bin" for n in range(count)]
    for name in files:
        verify_tokens(folder / name)


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1), st.data())
def test_several_shards_are_sliced_as_one_array(
    shards: list[list[int]], data: st.DataObject
) -> None:
    tokens = ShardedTokens([np.array(shard, dtype=np.uint16) for shard in shards])
    whole = np.array([n for shard in shards for n in shard], dtype=np.uint16)
    assert len(tokens) == len(whole)
    limit = len(whole) + 2
    bound = st.none() | st.integers(-limit, limit)
    where = slice(data.draw(bound), data.draw(bound))
    assert tokens[where].tolist() == whole[where].tolist()
    assert tokens[where].dtype == np.uint16


def test_a_slice_within_a_shard_is_no_copy() -> None:
    shard = np.arange(5, dtype=np.uint16)
    tokens = ShardedTokens([shard, shard])
    assert np.shares_memory(tokens[1:4], shard)


def test_a_single_file_is_a_plain_memory_map(tmp_path: Path) -> None:
    tokens = load_split(write(tmp_path, [1, 2, 3], 3), "train").tokens
    assert type(tokens) is np.memmap


def test_a_shard_of_another_run_or_a_missing_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3, 4, 5], 2)
    other = tmp_path / "other"
    write(other, [1, 2, 9, 4, 5], 2)
    (other / "train-00001.bin").replace(tmp_path / "train-00001.bin")
    with pytest.raises(TokenFileError, match=r"train-00001\.bin: of another run"):
        load_split(tmp_path, "train")
    (tmp_path / "train-00001.bin").unlink()
    with pytest.raises(TokenFileError, match=r"train-00001\.bin: not found"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["bin", "pt"])
def test_a_failure_while_writing_leaves_no_file_of_this_shard(tmp_path: Path, suffix: str) -> None:
    def write_a_wrong_id() -> None:
        with SplitWriter(tmp_path, "train", suffix, BYTES, 10) as writer:
            writer.append(np.array([1]))
            writer.append(np.array([257]))
            writer.finish()

    with pytest.raises(TokenFileError, match="found id 257; allowed: 0 to 256"):
        write_a_wrong_id()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's memory maps")
@pytest.mark.parametrize("order", ["random", "documents"])
def test_reading_all_of_a_file_keeps_little_of_it_in_memory(tmp_path: Path, order: str) -> None:
    write(tmp_path, [n % 257 for n in range(4_000_000)], 10**9, at_once=4_000_000)
    tokens = load_split(tmp_path, "train").tokens
    batches = Batches(tokens, 64, 100, order, 1, eot_id=256)
    for step in range(1, 200):
        batches.sequences(step, 0, 100)
    release(tokens)
    assert resident_kilobytes("train.bin") == 0
    batches.sequences(200, 0, 100)
    assert resident_kilobytes("train.bin") > 0


def resident_kilobytes(name: str) -> int:
    """Of the maps of a file, by the kernel's account."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [n for n, line in enumerate(lines) if line.endswith(name)]
    return sum(int(lines[start + 4].split()[1]) for start in starts)


def test_documents_begin_behind_each_end_of_text() -> None:
    tokens = np.array([5, 256, 256, 6, 7])
    assert document_bounds(tokens, 256).tolist() == [0, 2, 3, 5]
    assert document_bounds(tokens[:3], 256).tolist() == [0, 2, 3]
    assert document_bounds(tokens, None).tolist() == [0, 5]
