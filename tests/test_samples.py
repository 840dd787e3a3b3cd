"""Proves that train can append samples one by one, and that no text breaks the file's form."""

from finished_run import GENERATED, RUN

from pipeline.training.samples import format_samples

TRAINING = RUN["samples"]


def test_appending_one_by_one_gives_the_file_written_at_once() -> None:
    samples = [*TRAINING, *GENERATED]
    assert "".join(format_samples([sample]) for sample in samples) == format_samples(samples)


def test_headings_say_where_a_text_comes_from() -> None:
    text = format_samples([{"step": 1500, "text": "a"}, GENERATED[0]])
    assert text.startswith("=== step 1,500 ===\na\n\n=== finished model, prompt 'ROMEO:\\n', ")
    assert "temperature 0.8, top_k 50, seed 1337, sample 1" in text


def test_control_characters_are_shown_and_letters_of_any_script_are_kept() -> None:
    text = "tab\t\r\x00\x1b[31m\u2028 é 世界\u3000🙂\n"
    assert format_samples([{"step": 0, "text": text}]) == (
        "=== step 0 ===\ntab\t\\r\\x00\\x1b[31m\\u2028 é 世界\u3000🙂\n\n\n"
    )
