"""`islr models` and `islr weights`. Like `islr/cli.py` it imports inside its commands, so that `--help` answers at
once; it lies beside `islr/models/`, whose import is heavy.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from islr.errors import UserError

weights_app = typer.Typer(no_args_is_help=True, help="Import, inspect and export weights.")


def models_command(
    pattern: Annotated[str, typer.Argument(help="shell pattern of names, as 'mvit*'")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="print json instead of a table")] = False,
) -> None:
    """List the encoders: input, parameters, multiply-accumulates per clip, importable layouts, source."""
    from islr.models import list_models
    from islr.models.description_cache import cached_descriptions
    from islr.progress import ProgressBar

    names = list_models(pattern)
    if not names:
        raise UserError(f"no model matches '{pattern}'; known: {', '.join(list_models())}")
    with ProgressBar("counting", len(names), enabled=len(names) > 1) as bar:
        found = cached_descriptions(names, bar.callback)
    if as_json:
        print(json.dumps([one.to_dict() for one in found], indent=1))
    else:
        _print_models(found)


def _print_models(found: list[Any]) -> None:
    """Return a table on a terminal, its last columns cut to the width, and tab-separated lines elsewhere."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows = [
        (
            one.name,
            f"{one.frames} x {one.size}²" if one.modality == "video" else f"{one.frames} poses",
            " | ".join(one.inputs),
            f"{one.parameters / 1e6:.2f}",
            f"{one.macs / 1e9:.2f}",
            str(one.blocks),
            ", ".join(one.layouts),
            one.source,
        )
        for one in found
    ]
    heads = ("encoder", "clip", "input", "M param", "GMAC", "blocks", "imports", "source")
    console = Console()
    if not console.is_terminal:
        print("\t".join(heads), *("\t".join(row) for row in rows), sep="\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, cells in zip(heads, zip(*rows, strict=True), strict=True):
        whole = max(len(cell) for cell in (head, *cells)) if head != "source" else None
        side: Any = "right" if head in ("M param", "GMAC", "blocks") else "left"
        table.add_column(head, justify=side, no_wrap=True, overflow="ellipsis", min_width=whole)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


@weights_app.command("import")
def weights_import(
    source: Annotated[str, typer.Argument(metavar="SRC", help="a file, a folder, timm:NAME or hf-hub:OWNER/NAME")],
    arch: Annotated[str, typer.Option(help="encoder to import into (islr models)")],
    out: Annotated[Path, typer.Option(help="safetensors file to write")],
    layout: Annotated[
        str | None, typer.Option("--from", help="layout of the file; default: detected from its keys")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="arguments of the encoder")
    ] = None,
) -> None:
    """Import public weights into an encoder, strictly: each tensor is used, or listed as having no counterpart."""
    from islr.config_files import read_overrides
    from islr.environment import commit
    from islr.models.public.importing import import_weights, open_source, report, write_imported

    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: the name must end in .safetensors")
    given = read_overrides(arguments or [])
    file = open_source(source)
    imported = import_weights(file, arch, layout, given)
    write_imported(imported, file, out, commit())
    print("\n".join(report(imported)))
    print(out)


@weights_app.command("show")
def weights_show(
    file: Annotated[str, typer.Argument(help="a weights file, ours or foreign, or a folder of shards")],
    as_json: Annotated[bool, typer.Option("--json", help="print json instead of lines")] = False,
) -> None:
    """Show a weights file: metadata, tensors, types, parameters; for a foreign file, the layouts that fit."""
    from islr.models.public.importing import summarise
    from islr.models.public.reader import open_public

    facts = summarise(open_public(file))
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            print(f"{key}:", *(f"  {name}: {inner}" for name, inner in value.items()), sep="\n")
        else:
            print(f"{key}: {', '.join(map(str, value)) or 'none' if isinstance(value, list) else value}")


@weights_app.command("export")
def weights_export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run folder")],
    directory: Annotated[Path, typer.Argument(help="folder to write to")],
) -> None:
    """Export a run's weights, with their metadata as json and a model card (README.md) beside them."""
    from islr.files import write_atomic
    from islr.models.weights import read_metadata
    from islr.reporting.model_card import model_card

    found = [run_folder / name for name in ("encoder.safetensors", "classifier.safetensors")]
    found = [path for path in found if path.is_file()]
    if not found:
        raise UserError(f"{run_folder} holds no encoder.safetensors or classifier.safetensors; is the run finished?")
    card = model_card(run_folder, found)
    directory.mkdir(parents=True, exist_ok=True)
    for path in found:
        write_atomic(directory / path.name, path.read_bytes())
        facts = json.dumps(read_metadata(path), indent=1, sort_keys=True)
        write_atomic(directory / f"{path.stem}.json", facts + "\n")
        print(directory / path.name)
    write_atomic(directory / "README.md", card)
    print(directory / "README.md")
