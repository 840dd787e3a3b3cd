"""Command trace: from a number in the README back to the text it came from."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.tree import Tree

    from pipeline.reporting.lineage import Node


def trace(
    name: Annotated[
        str, typer.Argument(help="A metric (val.perplexity), a figure (loss), train.csv, samples.")
    ],
    rev: Annotated[
        str | None, typer.Option(help="A commit, tag, branch or experiment instead of the tree.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print the lineage of a result down to the corpus, each checked; exits with 1 if one fails.

    Example: python -m pipeline trace val.perplexity
    """
    from pipeline.reporting.lineage import lineage
    from pipeline.reporting.revisions import Revision, WorkingTree
    from pipeline.reporting.stages import read_stages

    read_stages()  # or this is not the project's top folder
    tree = WorkingTree() if rev is None else Revision(rev)
    root = lineage(tree, name)
    problems = root.problems()
    if as_json:
        print(json.dumps(root.to_dict(), indent=2, ensure_ascii=False))
    else:
        from pipeline.console import uncut_console

        uncut_console().print(_drawn(root))
    if problems:
        print(f"error: {len(problems)} wrong: {problems[0]}", file=sys.stderr)
        raise typer.Exit(1)


def _drawn(node: "Node") -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    drawn = Tree(Text(f"{node.text}: {node.problem}", "red") if node.problem else Text(node.text))
    for child in node.children:
        drawn.children.append(_drawn(child))
    return drawn
