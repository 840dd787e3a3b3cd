"""The one form of every text that a model wrote, in `samples.txt` and the README.

A sample is {"step": int, "text": str} during training, and {"prompt": str, "settings": {...},
"text": str} of the finished model. Blocks only ever follow each other, so that train can append
to the live file: format_samples(a + b) == format_samples(a) + format_samples(b).
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# what would break a line, hide text or ring a bell: shown as an escape instead
HIDDEN = {"Cc", "Cs", "Zl", "Zp"}


def format_samples(samples: Iterable[Mapping[str, Any]]) -> str:
    """One block a sample: a heading line, the text, an empty line."""
    return "".join(
        f"=== {sample_heading(sample)} ===\n{visible(sample['text'])}\n\n" for sample in samples
    )


def sample_heading(sample: Mapping[str, Any], quoted: Callable[[str], str] = str) -> str:
    """Where a sample comes from, in a few words; its prompt as `quoted` writes it."""
    if "step" in sample:
        return f"step {sample['step']:,}"
    settings = ", ".join(f"{name} {value}" for name, value in sample["settings"].items())
    return f"finished model, prompt {quoted(visible(repr(sample['prompt'])))}, {settings}"


def visible(text: str) -> str:
    """The text with control characters, but for newline and tab, as escapes."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in HIDDEN
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
