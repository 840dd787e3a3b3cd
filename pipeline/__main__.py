"""`python -m pipeline COMMAND`: mounts every command; a user's error becomes one line."""

import errno
import io
import os
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
    "plots",
    "generate",
    "inspect",
    "trace",
    "verify",
    "demo",
    "export",
    "bench",
    "plan",
)  # each is a function of the module of its name
GROUPS = ("sweep",)  # each is the `app` of the module of its name: commands under one word
# what a user can mend where a file cannot be written or read
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "let a folder be there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow it"),
}


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    status = 0
    app = typer.Typer(
        name="python -m pipeline",
        help="Train GPT-2-style language models and prove every number they print.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # keeps the command's name even where one alone is mounted
    every = (*COMMANDS, *GROUPS)
    asked = [name for name in arguments[:1] if name in every]
    for name in asked or every:  # only what was asked for is imported
        module = import_module(f"pipeline.{name}")
        if name in GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    stage = os.environ.get("DVC_STAGE")  # set where DVC runs this command
    try:
        app(arguments, prog_name="python -m pipeline")
    except SystemExit as end:
        status = int(end.code or 0)
    except UserError as error:
        status = _fail(str(error), error.exit_code, stage)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where, remedy = error.filename or "a file", REMEDIES[error.errno]
        status = _fail(f"{where}: {error.strerror}; {remedy} and run it again", 1, stage)
    if stage and status == 0:
        import_module("pipeline.restore").keep_results(stage)
    return status


def _fail(message: str, status: int, stage: str | None) -> int:
    print(f"error: {message}", file=sys.stderr)
    if stage:
        restored = import_module("pipeline.restore").restore_results(stage)
        if restored:
            print(f"put back from the last run: {', '.join(restored)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # a token may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
