"""The entry point: its list of commands, and command lines that are none of them."""

import subprocess
import sys
from importlib import import_module

import pytest

from pipeline.__main__ import COMMANDS, main


def test_the_list_says_what_each_command_says_of_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "140")  # a line each
    assert main(["--help"]) == 0
    listed = [line.strip(" │").split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    helps = {words[0]: words[1] for words in listed if words and words[0] in COMMANDS}
    assert tuple(helps) == COMMANDS
    for name in COMMANDS:
        module = import_module(f"pipeline.{name}")
        said = module.app.info.help if hasattr(module, "app") else getattr(module, name).__doc__
        assert helps[name] == " ".join(said.split("\n\n")[0].split()).replace("`", "")


def test_the_list_imports_no_command() -> None:
    code = (
        "import sys; from pipeline.__main__ import main; status = main(['--help']);"
        "sys.exit(status or any(f'pipeline.{name}' in sys.modules for name in ('train', 'params')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train', 'trace'?"),
        (["--nope"], "No such option: --nope"),
        (["--", "trian"], "No such command 'trian'. Did you mean 'train', 'trace'?"),
    ],
)
def test_what_is_no_command_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_command_behind_two_dashes_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "plan", "--tflops", "-1"]) == 2
    assert "Invalid value for '--tflops'" in capsys.readouterr().err  # an option of its own


def test_a_python_without_the_packages_is_one_line() -> None:
    # -S: without site-packages
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipeline", "train"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {sys.executable}: found no typer")
    assert len(done.stderr.splitlines()) == 1
