"""Stage evaluate: data/checkpoints, data/tokens -> reports/metrics.json, data/evaluation."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline.console import uncut_console
from pipeline.params import Params, load_params
from pipeline.paths import BEST, METRICS, POSITIONS
from pipeline.storage import write_json, write_text
from pipeline.training import runtime


def evaluate(
    checkpoint: Annotated[
        str,
        typer.Option(
            help="Score this instead, and write nothing: gpt2, hf://OWNER/NAME, a file or a folder."
        ),
    ] = "",
    text: Annotated[
        Path | None, typer.Option(help="Score this text file instead of the splits.")
    ] = None,
) -> None:
    """Score best.pt on all of val and test, each target once, and draw its samples.

    Writes reports/metrics.json, and to data/evaluation the loss by position and by token, the
    samples, and on what they were computed.
    Computed in fp32, whatever the training's precision. With --checkpoint or --text it only
    prints: the model may come from anywhere, and needs no training.

    Example: python -m pipeline evaluate --checkpoint gpt2 --text book.txt
    """
    params = load_params()
    runtime.prepare_process(params.train)
    if checkpoint or text:
        _only_print(params, checkpoint or str(BEST), text)
        return
    from pipeline.evaluation.metrics import compute

    evaluation = compute(params)
    write_text(POSITIONS, evaluation.positions)
    for path, values in evaluation.others.items():
        write_json(path, values)
    write_json(METRICS, evaluation.metrics)
    table = Table("split", "loss", "perplexity", "bits per byte")
    for name in ("val", "test"):
        if scores := evaluation.metrics.get(name):
            numbers = (scores["loss"], scores["perplexity"], scores["bits_per_byte"])
            table.add_row(name, *(f"{number:.4f}" for number in numbers))
    uncut_console().print(table)


def _only_print(params: Params, checkpoint: str, text: Path | None) -> None:
    from pipeline.evaluation.elsewhere import score_elsewhere

    scored = score_elsewhere(params, checkpoint, text)
    table = Table("text", "targets", "loss", "perplexity", "bits per byte")
    if scored[0].word_perplexity is not None:
        table.add_column("word perplexity")
    for each in scored:
        numbers = [each.score.loss, each.score.perplexity, each.bits_per_byte]
        if each.word_perplexity is not None:
            numbers.append(each.word_perplexity)
        table.add_row(
            Text(each.name), f"{each.score.targets:,}", *(f"{number:.4f}" for number in numbers)
        )
    uncut_console().print(table)
