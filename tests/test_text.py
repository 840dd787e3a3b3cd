"""Text comes in pieces that later ids cannot change, and nothing of a stop string is shown."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.new_tokenizers import byte_tokenizer
from pipeline.evaluation.sampling import Draw, Strategy, generate
from pipeline.evaluation.text import TextStream, prompt_ids, stream_text
from pipeline.model.gpt import GPT, GPTConfig

BYTES = byte_tokenizer()


def shown(ids: list[int], stops: list[str]) -> str:
    stream = TextStream(BYTES, stops)
    text = ""
    for token in ids:
        if not stream.ended:
            text += stream.add(token)
    return text + stream.finish()


@given(st.binary(max_size=40))
def test_pieces_add_up_to_the_text_of_all_ids(data: bytes) -> None:
    assert shown(list(data), []) == data.decode("utf-8", errors="replace")


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    heard = text[: min(ends)] if ends else text  # what had come when the first stop was whole
    starts = [heard.index(stop) for stop in stops if stop in heard]
    assert shown(list(text.encode()), stops) == text[: min(starts, default=len(text))]


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=4))
def test_no_piece_is_taken_back(text: str, stop: str) -> None:
    stream, so_far = TextStream(BYTES, [stop]), ""
    final = shown(list(text.encode()), [stop])
    for token in text.encode():
        if not stream.ended:
            so_far += stream.add(token)
            assert final.startswith(so_far)


def test_end_of_text_ends_the_text() -> None:
    assert shown([*b"one", BYTES.eot_id, *b"two"], []) == "one"


def test_an_empty_prompt_starts_from_end_of_text() -> None:
    assert prompt_ids(BYTES, "") == [BYTES.eot_id]


def test_the_pieces_are_those_that_generate_draws() -> None:
    model = GPT(GPTConfig("modern", 1, 2, 16, 32, BYTES.vocab_size))
    model.initialise(1)
    torch.nn.init.normal_(model.lm_head.weight, generator=torch.Generator().manual_seed(1))
    draws = [Draw(Strategy(top_k=9), seed) for seed in (5, 6)]
    texts, over = ["", ""], []
    for piece in stream_text(model, BYTES, "", draws, max_new_tokens=50):
        texts[piece.number] += piece.text
        over += [piece.number] if piece.over else []
    ids = generate(
        model, [BYTES.eot_id], max_new_tokens=50, temperature=1.0, top_k=9, seed=5, num_samples=2,
        stop_id=BYTES.eot_id,
    )  # fmt: skip
    assert texts == [BYTES.decode(sample) for sample in ids]
    assert sorted(over) == [0, 1]
