"""Arguments and printing that several commands share."""

import os
from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(help="a config file, or the name of a shipped one (smoke/maskfeat.yaml)")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ..., which take precedence over the file")]


def print_once(text: object) -> None:
    """Print on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        print(text)
