"""The exported tokenizer.json gives our ids in Hugging Face's libraries, and our text back."""

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import (
    ByteLevelBPETokenizer,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import PreTrainedTokenizerFast

from pipeline.corpus.hf import from_hf_tokenizer_json, read_tokenizer, to_hf_tokenizer_json
from pipeline.corpus.new_tokenizers import (
    byte_tokenizer,
    char_tokenizer,
    tiktoken_tokenizer,
    train_bpe,
)
from pipeline.corpus.tokenizers import END_OF_TEXT, Tokenizer, gpt2_tokenizer
from pipeline.errors import CorpusError, TokenFileError

TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness,\nit was the epoch of belief, it was the epoch of incredulity: 1859!\n\n"
    "'We'll see,' she'd said; they're 12345 naïve cafés…\r\n\tit was the season of Light.\n"
)
BPE = train_bpe([TEXT], 400)


def published_pattern(name: str) -> str:
    """The split pattern of one of tiktoken's encodings, from its source."""
    source = inspect.getsource(getattr(tiktoken_ext.openai_public, name))
    alternatives = re.findall(r'r"""(.*?)"""', source)
    assert alternatives
    return "|".join(alternatives)


def small_encoding(name: str) -> Tokenizer:
    """A tiktoken encoding with its own pattern and few tokens: 400 of BPE, a hole, the special."""
    ranks = {BPE.token_bytes(n): n for n in range(BPE.eot_id)}
    special = {"<|endoftext|>": BPE.eot_id + 1}
    pattern = published_pattern(name)
    encoding = tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )
    return tiktoken_tokenizer(encoding)


TOKENIZERS = [
    BPE,
    gpt2_tokenizer(BPE.to_json()["merges"]),
    small_encoding("cl100k_base"),
    small_encoding("o200k_base"),
    char_tokenizer([TEXT]),
    byte_tokenizer(),
]
PEERS = [HuggingFaceTokenizer.from_str(json.dumps(to_hf_tokenizer_json(t))) for t in TOKENIZERS]

tricky = st.text(
    alphabet="abSé漢ſ1²½'’.,!_-/ \t\n\r\x0b\x1c\x85\xa0\u2028\u3000\u0301😀", max_size=40
)


@pytest.mark.parametrize(
    ("tokenizer", "peer"),
    list(zip(TOKENIZERS, PEERS, strict=True)),
    ids=[tokenizer.kind for tokenizer in TOKENIZERS],
)
@given(text=st.text() | tricky | st.sampled_from([TEXT, TEXT.upper()]))
def test_ids_and_text_are_ours(tokenizer: Tokenizer, peer: HuggingFaceTokenizer, text: str) -> None:
    assume(END_OF_TEXT not in text)  # hypothesis knows our constants; the test below has this one
    ids = tokenizer.encode(text).tolist()
    assert peer.encode(text).ids == ids
    assert peer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
def test_end_of_text_is_one_special_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(to_hf_tokenizer_json(tokenizer)), encoding="utf-8")
    peer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|endoftext|>")
    assert peer.eos_token_id == tokenizer.eot_id
    assert len(peer) == len({*range(tokenizer.vocab_size)} - set(_unused(tokenizer)))
    ids = [*tokenizer.encode("a b").tolist(), tokenizer.eot_id]
    assert peer("a b<|endoftext|>")["input_ids"] == ids


def _unused(tokenizer: Tokenizer) -> list[int]:
    return [
        n
        for n in range(tokenizer.vocab_size)
        if not tokenizer.token_bytes(n) and n != tokenizer.eot_id
    ]


@pytest.mark.parametrize("tokenizer", TOKENIZERS[:4], ids=lambda tokenizer: tokenizer.kind)
@given(text=st.text() | tricky | st.sampled_from([TEXT, TEXT.upper()]))
def test_an_exported_bpe_is_read_back(tokenizer: Tokenizer, text: str) -> None:
    back = from_hf_tokenizer_json(to_hf_tokenizer_json(tokenizer))
    assert back.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert (back.eot_id, back.vocab_size) == (tokenizer.eot_id, tokenizer.vocab_size)
    if "merges" in tokenizer.to_json():
        assert {**back.to_json(), "kind": 0, "sha256": 0} == {
            **tokenizer.to_json(), "kind": 0, "sha256": 0
        }  # fmt: skip


def trained_by_hugging_face() -> HuggingFaceTokenizer:
    """As people train one for GPT-2: with special tokens first, and one more added later."""
    peer = ByteLevelBPETokenizer()
    peer.train_from_iterator([TEXT] * 3, 400, special_tokens=["<|endoftext|>", "<pad>"])
    peer.add_special_tokens(["<sep>"])
    return HuggingFaceTokenizer.from_str(peer.to_str())


def test_gpt2s_tokenizer_by_any_name_and_form_gives_the_same_ids() -> None:
    merges = ["t h", "th e"]
    ours, theirs = gpt2_tokenizer(merges), gpt2_tokenizer(merges, "r50k_base")
    read = from_hf_tokenizer_json(to_hf_tokenizer_json(ours))
    assert len({each.sha256 for each in (ours, theirs, read)}) == 3
    assert ours.same_ids(theirs)
    assert ours.same_ids(read)
    assert not ours.same_ids(gpt2_tokenizer(["t h", "th i"]))


@given(text=st.text() | tricky | st.sampled_from([TEXT, TEXT.upper()]))
def test_a_tokenizer_that_hugging_face_trained_is_read(text: str) -> None:
    assume(not any(special in text for special in ("<|endoftext|>", "<pad>", "<sep>")))
    ours = from_hf_tokenizer_json(json.loads(TRAINED.to_str()))
    assert ours.encode(text).tolist() == TRAINED.encode(text).ids
    assert (ours.eot_id, ours.vocab_size) == (0, TRAINED.get_vocab_size())


def test_nanochats_name_of_what_stands_between_documents_is_read_too() -> None:
    named = json.loads(TRAINED.to_str().replace("<|endoftext|>", "<|bos|>"))
    ours = from_hf_tokenizer_json(named)
    assert (ours.eot_id, ours.vocab_size) == (0, TRAINED.get_vocab_size())
    assert ours.same_ids(from_hf_tokenizer_json(json.loads(TRAINED.to_str())))


TRAINED = trained_by_hugging_face()


@given(text=st.text() | tricky | st.sampled_from([TEXT, TEXT.upper()]))
def test_a_tokenizer_in_the_older_form_is_read(text: str, older: Path) -> None:
    assume("<|endoftext|>" not in text)
    ours = read_tokenizer(older / "tokenizer.json", "")
    theirs = ByteLevelBPETokenizer(str(older / "vocab.json"), str(older / "merges.txt"))
    assert ours.encode(text).tolist() == theirs.encode(text).ids
    assert ours.decode(ours.encode(text)) == text


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt, as Hugging Face's GPT-2s had them."""
    folder = tmp_path_factory.mktemp("older")
    peer = ByteLevelBPETokenizer()
    peer.train_from_iterator([TEXT] * 3, 400, special_tokens=["<pad>", "<|endoftext|>"])
    peer.save_model(str(folder))
    return folder


def test_what_the_older_form_says_beside_it_counts(older: Path, tmp_path: Path) -> None:
    for path in older.iterdir():
        shutil.copy(path, tmp_path)
    where = tmp_path / "tokenizer.json"
    plain = read_tokenizer(where, "")
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": false}')
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<sep>": plain.vocab_size}))
    assert read_tokenizer(where, "").vocab_size == plain.vocab_size + 1
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    with pytest.raises(TokenFileError, match="found a tokenizer that this project has no form of"):
        read_tokenizer(where, "")
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(TokenFileError, match=r"merges\.txt: not found; allowed: both"):
        read_tokenizer(where, "allowed: both")


def test_what_it_was_used_with_last_is_not_asked(tmp_path: Path) -> None:
    peer = HuggingFaceTokenizer.from_str(TRAINED.to_str())
    peer.enable_truncation(8)
    peer.enable_padding(direction="left", length=1000)
    assert from_hf_tokenizer_json(json.loads(peer.to_str())).encode(TEXT).size > 8


def test_a_pattern_that_passes_over_characters_loses_none_in_silence() -> None:
    peer = HuggingFaceTokenizer.from_str(TRAINED.to_str())
    letters = Regex(r"\s?\p{L}+|\s?\p{N}+|[\p{P}\p{S}\p{C}]+|\s+")  # and no marks
    peer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(letters, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    ours = from_hf_tokenizer_json(json.loads(peer.to_str()))
    assert ours.decode(ours.encode(TEXT)) == TEXT
    with pytest.raises(CorpusError, match="whose pattern passes over some of the text's char"):
        ours.encode("हिन्दी में लिखा हुआ पाठ।")


def changed(**parts: object) -> dict[str, object]:
    return {**json.loads(TRAINED.to_str()), **parts}


def without_all_bytes() -> dict[str, object]:
    """As BpeTrainer makes one without initial_alphabet: of the bytes that its text has."""
    peer = HuggingFaceTokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=80, special_tokens=["<|endoftext|>"], show_progress=False
    )
    peer.train_from_iterator(["the cat sat on the mat"] * 50, trainer)
    return dict(json.loads(peer.to_str()))


LOWER = json.loads(normalizers.Lowercase().__getstate__())
PREFIX = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
FOREIGN = {
    "a normalizer": changed(normalizer=LOWER),
    "a space before": changed(pre_tokenizer=PREFIX),
    "no split": changed(pre_tokenizer=None),
    "bytes without a token": without_all_bytes(),
    "no end": changed(added_tokens=[]),
    "an id beyond all": changed(
        model={**json.loads(TRAINED.to_str())["model"], "vocab": {"a": 10**12}}
    ),
    "another model": changed(
        model={"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    ),
}


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN)
def test_another_kind_of_tokenizer_is_refused(value: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(TokenFileError, match="found a tokenizer that this project has"):
        read_tokenizer(tmp_path / "tokenizer.json", "")
