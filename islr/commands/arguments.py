"""Arguments and printing that several commands share."""

from typing import Annotated

import typer

from islr.logs import of_other_rank

ConfigFile = Annotated[str, typer.Argument(help="a config file, or the name of a shipped one (smoke/maskfeat.yaml)")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ..., which take precedence over the file")]


def print_once(text: object) -> None:
    """Print on rank 0 only."""
    if not of_other_rank():
        print(text)
