"""Command generate: text from a trained checkpoint, or any model that can be read."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import ParamsError, UserError
from pipeline.params import SampleParams, load_params, with_options
from pipeline.paths import BEST
from pipeline.storage import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.evaluation.sampling import Draw
    from pipeline.evaluation.text import Piece

    Writer = Callable[[str, Sequence[Draw]], Iterator[Piece]]


def generate(
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt to continue; \\n: a new line, '': from <|endoftext|>."),
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="Read the prompt as it is from a file; - for stdin.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of new tokens.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Softmax temperature: below 1 less random, above more; 0: greedy."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest; 0: all.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Nucleus sampling: the likeliest that reach p; 1: all."),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="From tokens of at least this share of the likeliest's p; 0: all."),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: tokens of the text so far less likely; 1: none.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="The same seed, the same text; sample 2 has seed + 1.")
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="Number of samples.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop before this text; repeatable.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Eight strategies on this prompt, side by side."),
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Ask for prompts until an empty line or Ctrl-D.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the text here as well.")] = None,
    checkpoint: Annotated[
        str,
        typer.Option(help="The model: gpt2, gpt2-xl, ..., hf://OWNER/NAME, a file or a folder."),
    ] = str(BEST),
) -> None:
    """Sample text from a model; what is not given comes from `sample` in params.yaml.

    The text ends at <|endoftext|>, at a --stop, or after --max-new-tokens. The model sees the last
    block_size tokens at most: when they are full, the older half goes.

    Example: python -m pipeline generate --prompt "BIANCA:\\n" --top-p 0.9 --num-samples 3
    """
    drawn = [
        value is not None and option
        for option, value in (
            ("--temperature", temperature),
            ("--top-k", top_k),
            ("--top-p", top_p),
            ("--min-p", min_p),
            ("--num-samples", num_samples if num_samples != 1 else None),
        )
    ]
    for one, other in (
        *((greedy and "--greedy", found) for found in drawn),
        (interactive and "--interactive", compare and "--compare"),
        (interactive and "--interactive", prompt is not None and "--prompt"),
        (interactive and "--interactive", prompt_file and "--prompt-file"),
        (prompt_file and "--prompt-file", prompt is not None and "--prompt"),
        (compare and "--compare", num_samples is not None and "--num-samples"),
    ):
        if one and other:
            raise UserError(f"{one}: found with {other}; allowed: one of the two")
    if "" in (stop or ()):
        raise UserError("--stop: found ''; allowed: a text")
    if sys.stdout is None:
        raise UserError("stdout: found it closed; allowed: an open one")
    if output is not None and output.exists() and not output.is_file():
        kind = "a folder" if output.is_dir() else "no regular file"
        raise UserError(f"--output: found {output}, {kind}; allowed: a file")
    params = load_params()
    begins = None if prompt is None else prompt.replace("\\n", "\n")
    asked = {
        "prompt": begins if prompt_file is None else _read_prompt(prompt_file),
        "max_new_tokens": max_new_tokens,
        "temperature": 0.0 if greedy else temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "num_samples": 1 if greedy else num_samples,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    sample = with_options(params.sample, given)

    from pipeline.training import runtime

    runtime.prepare_process(params.train)
    from pipeline.evaluation.sampling import Draw, as_set, prompt_ids
    from pipeline.evaluation.text import stream_text
    from pipeline.model.pretrained import load_pretrained

    pretrained = load_pretrained(checkpoint)
    model, tokenizer = pretrained.model, pretrained.load_tokenizer()
    runtime.place(model, params.train)
    stops = [text.replace("\\n", "\n") for text in stop or ()]
    errors = Console(stderr=True)

    def write(text: str, draws: "Sequence[Draw]") -> "Iterator[Piece]":
        length, most = len(prompt_ids(tokenizer, text)), model.config.block_size
        if length > most:
            errors.print(
                f"note: the prompt has {length} tokens, the model sees {most}: "
                f"it goes on from the last {max(1, most // 2)}",
                highlight=False,
                soft_wrap=True,
            )
        return stream_text(
            model, tokenizer, text, draws, max_new_tokens=sample.max_new_tokens, stops=stops
        )

    strategy = as_set(sample)
    draws = [Draw(strategy, sample.seed + number) for number in range(sample.num_samples)]
    shown: list[str] = []
    try:
        if interactive:
            for text in _prompts():
                try:
                    asked_for = with_options(sample, {"prompt": text}).prompt
                except ParamsError as error:
                    print(f"error: {str(error).removeprefix('--')}", file=sys.stderr)
                    continue
                _show(write, asked_for, draws, shown)
        elif compare:
            _compare(write, sample, shown)
        else:
            _show(write, sample.prompt, draws, shown)
    finally:  # what was shown is kept, whatever ends it
        if output is not None and shown:
            try:
                write_text(output.resolve(), "".join(shown))  # a symbolic link stays one
            except OSError as error:
                raise UserError(f"--output: {output}: {error.strerror}") from None


def _read_prompt(file: Path) -> str:
    """The text of a file, or of standard input; raises UserError."""
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode("utf-8").removeprefix("\ufeff")  # a mark, and no text
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt-file: {file}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"--prompt-file: {file}: {error.strerror}; allowed: a text file") from None


def _prompts() -> "Iterator[str]":
    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no text cost one prompt alone
        sys.stdin.reconfigure(errors="surrogateescape")
    while sys.stdin is not None:
        try:
            line = input("prompt> ")
        except EOFError:
            return
        if not line:
            return
        yield line.replace("\\n", "\n")


def _print(text: str, shown: list[str]) -> None:
    """Print at once; to a terminal without the control characters that it would obey."""
    from pipeline.training.samples import visible

    shown.append(text)
    print(visible(text) if sys.stdout.isatty() else text, end="", flush=True)


def _show(write: "Writer", prompt: str, draws: "Sequence[Draw]", shown: list[str]) -> None:
    """Print a prompt's samples, the only one as it comes; `shown` takes what is printed."""
    if len(draws) == 1:
        _print(prompt, shown)
        for piece in write(prompt, draws):
            _print(piece.text, shown)
        _print("\n", shown)
        return
    texts = [prompt] * len(draws)
    for piece in write(prompt, draws):
        texts[piece.number] += piece.text
        if piece.over:
            heading = f"--- sample {piece.number + 1}, seed {draws[piece.number].seed} ---"
            _print(f"{heading}\n{texts[piece.number]}\n", shown)


def _compare(write: "Writer", sample: SampleParams, shown: list[str]) -> None:
    """Print the same prompt and seed by several strategies, side by side."""
    from pipeline.evaluation.sampling import Draw, as_set, compared_strategies
    from pipeline.training.samples import visible

    strategies = compared_strategies(as_set(sample))
    texts = [sample.prompt] * len(strategies)
    draws = [Draw(strategy, sample.seed) for strategy in strategies.values()]
    for piece in write(sample.prompt, draws):
        texts[piece.number] += piece.text
    names = list(strategies)
    shown += [
        f"--- {name}, seed {sample.seed} ---\n{text}\n"
        for name, text in zip(names, texts, strict=True)
    ]
    console = Console()
    columns = max(1, console.width // 36)
    for first in range(0, len(names), columns):
        table = Table(expand=True)
        for name in names[first : first + columns]:
            table.add_column(name, ratio=1, overflow="fold")
        table.add_row(*(Text(visible(text)) for text in texts[first : first + columns]))
        console.print(table)
