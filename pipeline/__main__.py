"""`python -m pipeline COMMAND`: mounts every command; a user's error becomes one line."""

import sys
from importlib import import_module

import typer

from pipeline.errors import UserError

COMMANDS = (
    "fetch",
    "prepare",
    "train",
    "evaluate",
    "report",
    "generate",
    "inspect",
)  # each is a function of the module of its name


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    app = typer.Typer(
        name="python -m pipeline",
        help="Train GPT-2-style language models and prove every number they print.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # keeps the command's name even where one alone is mounted
    asked = [name for name in arguments[:1] if name in COMMANDS]
    for name in asked or COMMANDS:  # only what was asked for is imported
        app.command(name)(getattr(import_module(f"pipeline.{name}"), name))
    try:
        status = app(arguments, prog_name="python -m pipeline", standalone_mode=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return int(status or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
