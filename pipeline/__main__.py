"""`python -m pipeline COMMAND`: mounts every command; a user's error becomes one line."""

import ast
import errno
import io
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    import typer

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
    "sweep",
)  # each is a function of the module of its name, or its `app`: commands under one word
# the docstring of that function, or of a module with an `app`, is its help
# what a user can mend where a file cannot be written or read
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "let a folder be there"),
    errno.EISDIR: "let a file be there",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow it"),
}


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    stage = os.environ.get("DVC_STAGE")  # set where DVC runs this command
    status = 1  # of what escapes
    try:
        status = _run(arguments)
    finally:
        if stage:
            _settle(stage, status)
    return status


def _mounted(arguments: list[str]) -> "typer.Typer":
    import typer

    app = typer.Typer(
        name="python -m pipeline",
        help="Train GPT-2-style language models and prove every number they print.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # keeps the command's name even where one alone is mounted
    name = next((word for word in arguments if word != "--"), "")
    if name not in COMMANDS:  # a list of them is asked for, or an error: none is imported
        for each in COMMANDS:
            app.command(each, help=_help(each))(lambda: None)
        return app
    module = import_module(f"pipeline.{name}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(getattr(module, name))
    return app


def _help(command: str) -> str | None:
    """A command's docstring, read from its source."""
    module = ast.parse(Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    return ast.get_docstring(functions.get(command, module))


def _run(arguments: list[str]) -> int:
    try:
        app = _mounted(arguments)  # in here, as Ctrl-C may come while it imports
        status = app(arguments, prog_name="python -m pipeline", standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where, remedy = error.filename or "a file", REMEDIES[error.errno]
        return _fail(f"{where}: {error.strerror}; {remedy} and run it again", 1)
    except ModuleNotFoundError as error:
        if error.name != "typer":  # the first that is not Python's own
            raise
        activate = "found no typer, so not where `make` installs; run `. .venv/bin/activate` first"
        return _fail(f"{sys.executable}: {activate}", 1)
    except _usage_error() as error:  # asked for last: it imports
        line = " ".join(error.format_message().split())
        return _fail(line, 2) if line else 2  # without one, the help was shown
    return int(status or 0)  # of a typer.Exit; a command returns None


def _usage_error() -> Any:
    """Click's, or that of typer's own copy of it."""
    import typer

    return typer.BadParameter.__base__


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _settle(stage: str, status: int) -> None:
    """Keep a stage's results, or put back those of the last run: DVC has deleted them."""
    restore = import_module("pipeline.restore")
    if status == 0:
        restore.keep_results(stage)
    elif (stage, status) == ("train", 130):  # it goes on, and the next dvc may have begun already
        return
    elif restored := restore.restore_results(stage):
        print(f"put back from the last run: {', '.join(restored)}", file=sys.stderr)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # a token may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
