"""The command draws what its options say, from any model that can be read, and says in a line what
it cannot."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh_project import enter_project
from test_export import TOKENIZERS, checkpoint
from tiny_project import ROOT, environment

from pipeline.__main__ import main
from pipeline.evaluation.sampling import generate
from pipeline.evaluation.text import Piece
from pipeline.model.gpt import GPT

TOKENIZER = TOKENIZERS["bpe"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GPT:
    """best.pt of a project, with random weights."""
    enter_project(tmp_path, monkeypatch)
    monkeypatch.setattr("pipeline.training.runtime.prepare_process", lambda params: None)
    (tmp_path / "data/checkpoints").mkdir(parents=True)
    return checkpoint(tmp_path / "data/checkpoints/best.pt", "modern", TOKENIZER)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capsys


def draw(*arguments: str) -> int:
    return main(["generate", "--max-new-tokens", "12", *arguments])


def drawn(model: GPT, prompt: str, seed: int, **changes: float) -> str:
    settings = {"max_new_tokens": 12, "temperature": 0.8, "top_k": 50, **changes}
    ids = TOKENIZER.encode(prompt).tolist() or [TOKENIZER.eot_id]
    (new,) = generate(model, ids, seed=seed, stop_id=TOKENIZER.eot_id, **settings)
    return prompt + TOKENIZER.decode(new)


def test_options_take_the_place_of_settings(model: GPT, shown: pytest.CaptureFixture[str]) -> None:
    assert draw("--prompt", "Shall\\nI", "--seed", "5", "--top-p", "0.7", "--num-samples", "1") == 0
    assert shown.readouterr().out == drawn(model, "Shall\nI", 5, top_p=0.7) + "\n"


def test_a_prompt_from_a_file_or_standard_input_is_taken_as_it_is(
    model: GPT, shown: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "Shall\\nI\n"
    Path("prompt.txt").write_text(prompt)
    assert draw("--prompt-file", "prompt.txt", "--num-samples", "1") == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(prompt.encode())))
    assert draw("--prompt-file", "-", "--num-samples", "1") == 0
    Path("prompt.txt").write_text(prompt, encoding="utf-8-sig")  # as on Windows
    assert draw("--prompt-file", "prompt.txt", "--num-samples", "1") == 0
    assert shown.readouterr().out == 3 * (drawn(model, prompt, 1337) + "\n")


def test_an_empty_prompt_starts_from_end_of_text(
    model: GPT, shown: pytest.CaptureFixture[str]
) -> None:
    assert draw("--prompt", "", "--greedy") == 0  # once: every sample would be the same
    assert shown.readouterr().out == drawn(model, "", 0, temperature=0.0) + "\n"


def test_each_of_several_samples_can_be_drawn_again_by_its_seed(
    model: GPT, shown: pytest.CaptureFixture[str]
) -> None:
    assert draw("--prompt", "I", "--seed", "7", "--num-samples", "3") == 0
    blocks = [
        f"--- sample {n + 1}, seed {7 + n} ---\n{drawn(model, 'I', 7 + n)}\n" for n in (0, 1, 2)
    ]
    assert shown.readouterr().out == "".join(blocks)


def test_text_ends_before_a_stop_string(model: GPT, shown: pytest.CaptureFixture[str]) -> None:
    whole = drawn(model, "I", 1337)
    stop = whole[6]
    assert draw("--prompt", "I", "--num-samples", "1", "--stop", stop) == 0
    assert shown.readouterr().out == "I" + whole[1:].partition(stop)[0] + "\n"


def test_output_holds_what_is_shown(model: GPT, shown: pytest.CaptureFixture[str]) -> None:
    assert draw("--prompt", "I", "--output", "texts/out.txt") == 0
    assert Path("texts/out.txt").read_bytes().decode() == shown.readouterr().out


def test_output_is_written_through_a_link_and_replaces_no_device(
    model: GPT, shown: pytest.CaptureFixture[str]
) -> None:
    Path("target.txt").write_text("before")
    Path("link.txt").symlink_to("target.txt")
    assert draw("--prompt", "I", "--output", "link.txt") == 0
    assert Path("link.txt").is_symlink()
    assert Path("target.txt").read_bytes().decode() == shown.readouterr().out
    os.mkfifo("fifo")
    assert draw("--prompt", "I", "--output", "fifo") == 2
    line = "--output: found fifo, no regular file; allowed: a file"
    assert shown.readouterr().err == f"error: {line}\n"
    assert Path("fifo").is_fifo()


def test_output_keeps_what_was_shown_of_a_sample_that_is_stopped(
    model: GPT, shown: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **settings: object) -> Iterator[Piece]:
        yield Piece(0, " go", False)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.evaluation.text.stream_text", stopped)
    assert draw("--prompt", "I", "--num-samples", "1", "--output", "out.txt") == 130
    assert Path("out.txt").read_text() == shown.readouterr().out == "I go"


def test_compare_shows_every_strategy_on_one_prompt(
    model: GPT, shown: pytest.CaptureFixture[str]
) -> None:
    assert draw("--prompt", "I", "--compare", "--output", "out.txt") == 0
    written, table = Path("out.txt").read_bytes().decode(), shown.readouterr().out
    for name in ("greedy", "temperature 0.7", "top-k 40", "top-p 0.9", "min-p 0.1"):
        assert f"--- {name}, seed 1337 ---\nI" in written
        assert name in table
    greedy = drawn(model, "I", 0, temperature=0.0, top_k=0)
    assert f"--- greedy, seed 1337 ---\n{greedy}\n" in written


def test_interactive_asks_until_an_empty_line(
    model: GPT, shown: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Shall\nThou\n\nnever read\n"))
    assert draw("--interactive", "--num-samples", "1", "--output", "out.txt") == 0
    texts = [drawn(model, prompt, 1337) for prompt in ("Shall", "Thou")]
    assert shown.readouterr().out == "".join(f"prompt> {text}\n" for text in texts) + "prompt> "
    assert Path("out.txt").read_bytes().decode() == "".join(f"{text}\n" for text in texts)


def test_a_prompt_longer_than_the_context_is_said(
    model: GPT, shown: pytest.CaptureFixture[str]
) -> None:
    assert draw("--prompt", "x" * 200, "--num-samples", "1") == 0
    error = shown.readouterr().err
    assert error.endswith("the model sees 64: it goes on from the last 32\n")
    assert error.count("\n") == 1


def test_any_model_that_can_be_read_will_do(model: GPT, shown: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "out"]) == 0
    shown.readouterr()
    assert draw("--checkpoint", "out", "--prompt", "I", "--num-samples", "1") == 0
    assert shown.readouterr().out == drawn(model, "I", 1337) + "\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--top-p", "0"), "--top-p: found 0.0; allowed: a number above 0 and of at most 1"),
        (
            ("--repetition-penalty", "-1"),
            "--repetition-penalty: found -1.0; allowed: a number above 0",
        ),
        (("--temperature", "inf"), "--temperature: found inf; allowed: a number of at least 0"),
        (
            ("--repetition-penalty", "nan"),
            "--repetition-penalty: found nan; allowed: a number above 0",
        ),
        (("--output", "data"), "--output: found data, a folder; allowed: a file"),
        (("--top-k", "x"), "Invalid value for '--top-k': "),
        (("--nope",), "No such option: --nope"),
        (("--stop", "I", "--stop", ""), "--stop: found ''; allowed: a text"),
        (("--checkpoint", "none.pt"), "none.pt: not found; allowed: gpt2, gpt2-medium"),
        (
            ("--greedy", "--temperature", "1"),
            "--greedy: found with --temperature; allowed: one of the two",
        ),
        (("--interactive", "--compare"), "--interactive: found with --compare; allowed: one"),
        (("--prompt-file", "a", "--prompt", "I"), "--prompt-file: found with --prompt; allowed:"),
        (("--prompt-file", "none.txt"), "--prompt-file: none.txt: No such file or directory;"),
        (("--prompt-file", "bytes"), "--prompt-file: bytes: not UTF-8 at byte 3"),
        (("--interactive", "--prompt", "I"), "--interactive: found with --prompt; allowed: one"),
        (("--compare", "--num-samples", "3"), "--compare: found with --num-samples; allowed: one"),
    ],
)
def test_mistakes_are_one_line(
    model: GPT, arguments: tuple[str, ...], line: str, shown: pytest.CaptureFixture[str]
) -> None:
    Path("bytes").write_bytes(b"caf\xe9")
    assert draw(*arguments) == 2
    error = shown.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_text_that_utf_8_cannot_hold_is_one_line(
    model: GPT, shown: pytest.CaptureFixture[str]
) -> None:
    assert draw("--prompt", "caf\udce9") == 2
    assert shown.readouterr().err == (
        "error: --prompt: found 'caf\\udce9'; allowed: text that UTF-8 can hold\n"
    )


def test_a_prompt_that_is_not_utf_8_costs_no_other(model: GPT) -> None:
    command = [sys.executable, "-m", "pipeline", "generate", "--interactive", "--num-samples", "1"]
    done = subprocess.run(
        [*command, "--max-new-tokens", "12", "--output", "out.txt"],
        input=b"Shall\ncaf\xe9\nThou\n",
        env=environment(PYTHONUTF8="1", PYTHONPATH=str(ROOT)), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        b"error: prompt: found 'caf\\udce9'; allowed: text that UTF-8 can hold\n"
    )
    texts = [drawn(model, prompt, 1337) for prompt in ("Shall", "Thou")]
    assert Path("out.txt").read_bytes().decode() == "".join(f"{text}\n" for text in texts)


def test_a_closed_stdin_is_an_empty_one_and_a_closed_stdout_one_line(
    model: GPT, shown: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert draw("--interactive") == 0
    monkeypatch.setattr("sys.stdout", None)
    assert draw("--prompt", "I") == 2
    assert shown.readouterr().err == "error: stdout: found it closed; allowed: an open one\n"


def test_a_terminal_that_lacks_a_character_is_shown_its_code(model: GPT) -> None:
    command = [sys.executable, "-m", "pipeline", "generate", "--max-new-tokens", "2"]
    done = subprocess.run(
        [*command, "--prompt", "naïve 字", "--num-samples", "1", "--output", "out.txt"],
        env=environment(PYTHONIOENCODING="cp1252", PYTHONPATH=str(ROOT)), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("naïve ".encode("cp1252") + rb"\u5b57")
    assert Path("out.txt").read_text(encoding="utf-8").startswith("naïve 字")
