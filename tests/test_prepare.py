"""prepare's tokens are the corpus, split by split, and no tokenizer learns from val or test."""

import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from fresh_project import contents, enter_project, put, set_param

from pipeline.corpus.hf import to_hf_tokenizer_json
from pipeline.corpus.splits import SPLITS
from pipeline.corpus.token_file import load_split, verify_tokens
from pipeline.corpus.tokenizers import load
from pipeline.errors import CorpusError, TokenFileError
from pipeline.fetch import fetch
from pipeline.prepare import prepare

TOKENS = Path("data/tokens")
WORKS = {
    "a.txt": "the quick brown fox jumps over the lazy dog. " * 8,
    "b.txt": "",
    "c.txt": "the five boxing wizards jump quickly, naïve as ever. " * 6,
    "d.txt": "žluťoučký kůň úpěl ďábelské ódy. " * 4,
}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Four fetched documents, one of them empty; returns the text."""
    enter_project(tmp_path, monkeypatch)
    for name, text in WORKS.items():
        put(name, text.encode())
    set_param("vocab_size", "300")
    set_param("val_fraction", "0.2")
    set_param("test_fraction", "0.1")
    fetch()
    return "".join(WORKS.values())


def meta() -> dict[str, Any]:
    value = json.loads((TOKENS / "meta.json").read_text())
    assert isinstance(value, dict)
    return value


def test_a_tokenizer_of_an_earlier_run_is_taken_as_it_is(
    corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare()
    trained = (TOKENS / "tokenizer.json").read_bytes()
    put("c.txt", b"another text, on which no such tokenizer would be trained " * 9)
    fetch()
    set_param("tokenizer", "file")
    given = Path("data/tokenizer/tokenizer.json")
    set_param("vocab_size", "9999")  # of a tokenizer that is trained
    with pytest.raises(TokenFileError, match=r"found; allowed with prepare\.tokenizer: file: an "):
        prepare()
    given.parent.mkdir(parents=True)
    given.write_bytes(trained)
    capsys.readouterr()
    prepare()
    assert "vocab_size" not in capsys.readouterr().out
    assert (TOKENS / "tokenizer.json").read_bytes() == trained
    assert meta()["tokenizer"]["kind"] == "bpe"
    assert load_split(TOKENS, "train").tokenizer_sha256 == load(given).sha256
    given.write_text(json.dumps(to_hf_tokenizer_json(load(given))))
    prepare()
    assert (TOKENS / "tokenizer.json").read_bytes() == trained


@pytest.mark.parametrize("suffix", ["bin", "pt"])
@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_the_tokens_of_the_splits_are_the_text(corpus: str, kind: str, suffix: str) -> None:
    set_param("tokenizer", kind)
    set_param("format", suffix)
    prepare()
    tokenizer = load(TOKENS / "tokenizer.json")
    stated = meta()
    decoded, ends = b"", 0
    for split, counts in stated["splits"].items():
        file = load_split(TOKENS, split)
        verify_tokens(file.path)
        text = b"".join(tokenizer.token_bytes(n) for n in file.tokens)
        documents = int((file.tokens == tokenizer.eot_id).sum())
        assert counts == {
            "documents": documents,
            "tokens": len(file.tokens),
            "bytes": len(text),
            "sha256": file.sha256,
        }
        decoded += text
        ends += documents
    assert decoded == corpus.encode()
    assert ends == 3
    assert stated["corpus"]["documents"] == 3
    assert stated["corpus"]["empty_documents"] == 1
    assert stated["corpus"]["bytes"] == len(corpus.encode())
    assert stated["tokenizer"] == {
        "kind": kind,
        "vocab_size": tokenizer.vocab_size,
        "eot_id": tokenizer.eot_id,
        "sha256": tokenizer.sha256,
    }


def test_splits_are_the_fractions_of_the_bytes(corpus: str) -> None:
    prepare()
    total = len(corpus.encode())
    sizes = {split: counts["bytes"] for split, counts in meta()["splits"].items()}
    assert sum(sizes.values()) == total
    assert sizes["val"] == pytest.approx(total * 0.2, abs=4)
    assert sizes["test"] == pytest.approx(total * 0.1, abs=4)


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_no_tokenizer_sees_val_or_test(corpus: str, kind: str) -> None:
    set_param("tokenizer", kind)
    prepare()
    before = (TOKENS / "tokenizer.json").read_bytes()
    held_out = meta()["splits"]["val"]["bytes"] + meta()["splits"]["test"]["bytes"]
    text = corpus.encode()
    for name in WORKS:
        Path("data/own", name).unlink()
    put("other.txt", text[:-held_out] + b"#" * held_out)
    fetch()
    prepare()
    assert (TOKENS / "tokenizer.json").read_bytes() == before


def test_a_fraction_of_zero_gives_a_split_without_tokens(corpus: str) -> None:
    set_param("test_fraction", "0.0")
    prepare()
    assert len(load_split(TOKENS, "test").tokens) == 0
    assert meta()["splits"]["test"]["tokens"] == 0


def test_a_split_whose_one_character_a_cut_moves_elsewhere_is_refused(corpus: str) -> None:
    for name in WORKS:
        Path("data/own", name).unlink()
    put("a.txt", "😀".encode() * 20)
    set_param("tokenizer", "byte")
    set_param("val_fraction", "0.02")
    set_param("test_fraction", "0.02")
    fetch()
    with pytest.raises(CorpusError, match=r"prepare\.val_fraction: 0\.02 of 80 bytes"):
        prepare()
    set_param("val_fraction", "0.05")
    prepare()
    assert [split["bytes"] for split in meta()["splits"].values()] == [72, 4, 4]


def test_running_it_again_gives_the_same_bytes(corpus: str) -> None:
    prepare()
    before = contents(TOKENS)
    prepare()
    assert contents(TOKENS) == before
    assert len(before) == 6


def test_bad_input_leaves_the_earlier_tokens(corpus: str) -> None:
    prepare()
    before = contents(TOKENS)
    set_param("test_fraction", "0.0001")
    with pytest.raises(CorpusError, match=r"prepare\.test_fraction: 0\.0001 of"):
        prepare()
    Path("data/raw/texts/a.txt").write_text("changed")
    with pytest.raises(CorpusError, match=r"a\.txt: changed since fetch"):
        prepare()
    assert contents(TOKENS) == before


def test_another_format_leaves_no_stale_files(corpus: str) -> None:
    prepare()
    set_param("format", "pt")
    prepare()
    assert sorted(path.suffix for path in TOKENS.iterdir()) == [*[".json"] * 3, *[".pt"] * 3]


def test_a_vocabulary_that_cannot_be_filled_is_told(
    corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_param("vocab_size", "5000")
    prepare()
    told = " ".join(capsys.readouterr().out.split())
    assert "prepare.vocab_size: 5,000 asked for" in told
    assert "1 empty documents left out" in " ".join(told.split())
    assert meta()["tokenizer"]["vocab_size"] < 5000


# one's own text in every format, splits by document, shards, token lists


def test_every_format_of_the_same_documents_gives_the_same_tokens(corpus: str) -> None:
    prepare()
    before = contents(TOKENS)
    lines = [json.dumps({"body": text}) for text in WORKS.values()]
    for name in WORKS:
        Path("data/own", name).unlink()
    put("a.jsonl", "\n".join(lines[:2]).encode())
    put("b.jsonl.gz", gzip.compress("\n".join(lines[2:]).encode()))
    set_param("text_field", "body")
    fetch()
    prepare()
    after = contents(TOKENS)
    for name in ("train.bin", "val.bin", "test.bin", "tokenizer.json", "statistics.json"):
        assert after[f"data/tokens/{name}"] == before[f"data/tokens/{name}"]


@pytest.mark.parametrize("workers", ["2", "3"])
def test_the_number_of_processes_changes_no_byte(corpus: str, workers: str) -> None:
    prepare()
    before = contents(TOKENS)
    set_param("workers", workers)
    prepare()
    assert contents(TOKENS) == before


def test_shards_hold_the_tokens_of_one_file(corpus: str) -> None:
    prepare()
    whole = {split: load_split(TOKENS, split).tokens.tolist() for split in SPLITS}
    set_param("shard_tokens", "100")
    prepare()
    assert (TOKENS / "train-00001.bin").is_file()
    assert not (TOKENS / "train.bin").exists()
    for split, ids in whole.items():
        assert load_split(TOKENS, split).tokens[:].tolist() == ids
        assert meta()["splits"][split]["tokens"] == len(ids)


def test_no_document_is_in_two_splits_and_none_moves_when_others_come(corpus: str) -> None:
    set_param("tokenizer", "byte")
    set_param("split_by", "document")

    def documents() -> dict[str, set[str]]:
        fetch()
        prepare()
        tokenizer = load(TOKENS / "tokenizer.json")
        return {
            split: set(tokenizer.decode(load_split(TOKENS, split).tokens).split("<|endoftext|>"))
            - {""}
            for split in SPLITS
        }

    for n in range(60):
        put(f"n{n}.txt", f"document {n % 50}".encode())
    first = documents()
    assert all(first.values())
    assert sum(len(texts) for texts in first.values()) == 50 + 3
    for n in range(60, 90):
        put(f"a{n}.txt", f"document {n}".encode())
    second = documents()
    assert all(first[split] <= second[split] for split in SPLITS)
    assert meta()["splits"]["train"]["documents"] >= len(second["train"])


def test_one_document_alone_has_no_end_of_text(corpus: str) -> None:
    for name in WORKS:
        Path("data/own", name).unlink()
    put("alone.txt", b"to be or not to be " * 20)
    set_param("tokenizer", "byte")
    fetch()
    prepare()
    ids = np.concatenate([load_split(TOKENS, split).tokens for split in SPLITS])
    assert bytes(ids.tolist()) == b"to be or not to be " * 20


@pytest.mark.parametrize("split_by", ["stream", "document"])
def test_token_lists_go_to_the_splits_as_they_are(corpus: str, split_by: str) -> None:
    for name in WORKS:
        Path("data/own", name).unlink()
    lists = [list(f"list {n}".encode()) for n in range(60)]
    torch.save([torch.tensor(ids) for ids in [*lists, []]], "data/own/lists.pt")
    set_param("split_by", split_by)
    fetch()
    with pytest.raises(CorpusError, match=r"prepare\.tokenizer: found 'bpe', .* token lists"):
        prepare()
    set_param("tokenizer", "byte")
    prepare()
    ids = np.concatenate([load_split(TOKENS, split).tokens for split in SPLITS])
    found = [list(part) for part in bytes(np.where(ids == 256, 255, ids).tolist()).split(b"\xff")][
        :-1
    ]
    assert sorted(found) == sorted(lists)
    assert meta()["corpus"]["documents"] == 60
    assert meta()["corpus"]["empty_documents"] == 1
    assert meta()["corpus"]["bytes"] == sum(map(len, lists))
    torch.save([torch.tensor([5, 300])], "data/own/lists.pt")
    fetch()
    with pytest.raises(CorpusError, match=r"lists\.pt: \[0\]: found id 300; allowed: 0 to 256"):
        prepare()


def test_token_lists_of_which_a_split_would_have_no_text_are_refused(corpus: str) -> None:
    for name in WORKS:
        Path("data/own", name).unlink()
    torch.save([torch.tensor([*b"some text "]), torch.full((90,), 256)], "data/own/lists.pt")
    set_param("tokenizer", "byte")
    set_param("val_fraction", "0.2")
    fetch()
    with pytest.raises(CorpusError, match=r"val|test"):
        prepare()
    assert not TOKENS.exists()


def test_statistics_count_the_tokens_and_the_documents(corpus: str) -> None:
    set_param("tokenizer", "byte")
    prepare()
    statistics = json.loads((TOKENS / "statistics.json").read_text())
    train = load_split(TOKENS, "train").tokens
    text, token_id, count = statistics["frequent"][0]
    assert (text, token_id, count) == (" ", 32, int((train == 32).sum()))
    counts = np.sort(np.bincount(train))[::-1]
    ranks = statistics["token_counts"]["ranks"]
    assert statistics["token_counts"]["counts"] == counts[np.array(ranks) - 1].tolist()
    assert ranks[-1] == (counts > 0).sum()
    lengths = {split: sum(n.values()) for split, n in statistics["document_tokens"].items()}
    assert lengths == {"train": 2, "val": 2, "test": 1}  # val has the end of one and all of another


def test_characters_that_were_replaced_are_told(
    corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put("e.txt", b"caf\xe9 \xff\xff " * 20)
    set_param("errors", "replace")
    fetch()
    prepare()
    assert meta()["corpus"]["replaced_characters"] == 60
    assert capsys.readouterr().out.count("replaced: 60 characters that are not UTF-8") == 2


def test_a_killed_prepare_leaves_no_process_and_the_next_clears_up(
    corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare()
    before = contents(TOKENS)
    set_param("workers", "2")
    set_param("tokenizer", "byte")
    put("big.txt", b"the quick brown fox jumps over the lazy dog " * 700_000)
    fetch()
    root = str(Path(__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", root)
    for number in (signal.SIGTERM, signal.SIGKILL):
        run = subprocess.Popen([sys.executable, "-m", "pipeline", "prepare"])
        parent = psutil.Process(run.pid)
        children: list[psutil.Process] = []
        while len(children) < 2 or not list(Path(".cache").glob("prepare-*/tokens/.train.bin*")):
            assert run.poll() is None
            children = parent.children(recursive=True)
        run.send_signal(number)
        run.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        left = [path.name for path in Path(".cache").glob("prepare-*")]
        assert bool(left) == (number == signal.SIGKILL)
        assert contents(TOKENS) == before
    Path("data/own/big.txt").unlink()
    set_param("tokenizer", "bpe")
    fetch()
    prepare()
    assert not list(Path(".cache").glob("prepare-*"))
    assert contents(TOKENS) == before
