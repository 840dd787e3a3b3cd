"""Foreign .pt files: lists of ids come in as they are, and nothing else comes in."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import torch

from pipeline.corpus.encode_lists import check_ids, encode_lists, split_lists
from pipeline.corpus.new_tokenizers import byte_tokenizer, tiktoken_tokenizer
from pipeline.corpus.token_lists import read_token_lists
from pipeline.corpus.tokenizers import END_OF_TEXT
from pipeline.errors import CorpusError

LISTS = [[1, 2, 3], [], [4], [5, 6]]


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_each_tensor_of_the_list_is_a_document(tmp_path: Path, dtype: torch.dtype) -> None:
    path = saved(tmp_path / "a.pt", [torch.tensor(ids, dtype=dtype) for ids in LISTS])
    documents = read_token_lists(path)
    assert [ids.tolist() for ids in documents] == LISTS
    assert {ids.dtype for ids in documents} == {np.dtype(np.int64)}
    assert read_token_lists(saved(path, torch.tensor([7, 8])))[0].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.tensor([1]), torch.tensor([0.5])], r"\[1\]: found a 1-D tensor of torch.float32"),
        ([torch.tensor([True])], r"\[0\]: found a 1-D tensor of torch.bool"),
        (torch.tensor([[1, 2]]), r"\[0\]: found a 2-D tensor of torch.int64"),
        ([[1, 2]], r"\[0\]: found list"),
        ([torch.tensor([1, 0]).to_sparse()], r"\[0\]: found a sparse tensor"),
        ({"ids": torch.tensor([1])}, "found dict"),
        ("text", "found str"),
    ],
)
def test_anything_but_integer_tensors_is_refused(
    tmp_path: Path, value: object, message: str
) -> None:
    path = saved(tmp_path / "a.pt", value)
    with pytest.raises(CorpusError, match=rf"a\.pt: {message}; allowed: a list of 1-D integer"):
        read_token_lists(path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil"),)


def test_no_code_of_the_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps(Evil()), b"", b"PK\x03\x04", b"text"):
        Path("a.pt").write_bytes(content)
        with pytest.raises(CorpusError, match=r"a\.pt: not a file of tensors, or cut short"):
            read_token_lists(Path("a.pt"))
    saved(Path("a.pt"), [Evil()])
    with pytest.raises(CorpusError, match=r"a\.pt: not a file of tensors"):
        read_token_lists(Path("a.pt"))
    assert not Path("evil").exists()


def test_a_file_that_cannot_be_read_at_all_is_not_called_foreign(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_token_lists(tmp_path)


@pytest.mark.parametrize("found", [257, -1])
def test_an_id_outside_the_vocabulary_is_named(found: int) -> None:
    documents = [np.array([1]), np.array([2, found])]
    message = rf"a\.pt: \[1\]: found id {found}; allowed: 0 to 256 \(prepare.tokenizer: byte\)"
    with pytest.raises(CorpusError, match=message):
        check_ids(documents, Path("a.pt"), byte_tokenizer())


def test_an_id_that_the_encoding_does_not_use_is_named() -> None:
    ranks = {bytes([n]): n for n in range(256)}
    encoding = tiktoken.Encoding(
        "cl100k_base", pat_str=".", mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 260}
    )
    tokenizer = tiktoken_tokenizer(encoding)
    check_ids([np.array([255, 260])], Path("a.pt"), tokenizer)
    message = (
        r"a\.pt: \[1\]: found id 258; allowed: 0 to 260, but 4 that have no text \(prepare\.tok"
    )
    with pytest.raises(CorpusError, match=message):
        check_ids([np.array([1]), np.array([2, 258])], Path("a.pt"), tokenizer)


def test_a_stream_of_lists_is_cut_by_the_fractions() -> None:
    documents = [np.arange(4), np.arange(4, 10)]
    parts = [
        (split, ids.tolist(), end)
        for split, ids, end in split_lists(documents, "stream", 0.3, 0.2, 256)
    ]
    assert parts == [
        ("train", [0, 1, 2, 3], True),
        ("train", [4], False),
        ("val", [5, 6, 7], False),
        ("test", [8, 9], True),
    ]


def test_a_list_has_its_end_of_text_once() -> None:
    parts = [("train", np.array([65, 66]), True), ("val", np.array([67, 256]), True)]
    results = list(encode_lists(parts, byte_tokenizer(), True))
    assert [result.ids.tolist() for result in results] == [[65, 66, 256], [67, 256]]
    assert [result.bytes for result in results] == [2, 1]
    assert [result.lengths for result in results] == [[3], [2]]


def test_equal_lists_are_in_one_split_with_and_without_end_of_text() -> None:
    documents = [np.array([n % 20, 256][: 1 + n // 100]) for n in range(200)]
    split_of: dict[int, set[str]] = {}
    for split, ids, _ in split_lists(documents, "document", 0.3, 0.2, 256):
        split_of.setdefault(int(ids[0]), set()).add(split)
    assert len(split_of) == 20
    assert all(len(splits) == 1 for splits in split_of.values())
