"""prepare's tokens are the corpus, split by split, and no tokenizer learns from val or test."""

import json
from pathlib import Path
from typing import Any

import pytest
from fresh_project import contents, enter_project, put, set_param

from pipeline.corpus.token_file import load_split, verify_tokens
from pipeline.corpus.tokenizers import load
from pipeline.errors import CorpusError
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
    assert "left out: 1 empty documents" in told
    assert meta()["tokenizer"]["vocab_size"] < 5000
