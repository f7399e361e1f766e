"""The `islr data` commands. Like `islr/cli.py` it imports inside its commands, so that `--help` answers at once."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from islr.data.pose_cli import poses_app

data_app = typer.Typer(no_args_is_help=True, help="Turn files into manifests, and look at what is really there.")
data_app.add_typer(poses_app, name="poses")


@data_app.command("wlasl")
def data_wlasl(
    json_file: Annotated[Path, typer.Option("--json", help="WLASL_v0.3.json, or one with its schema")],
    videos: Annotated[Path, typer.Option(help="folder of <video_id>.mp4")],
    out: Annotated[Path, typer.Option(help="manifest.csv to write")],
    poses: Annotated[Path | None, typer.Option(help="folder of <video_id>.npz")] = None,
    nslt: Annotated[Path | None, typer.Option(help="nslt_*.json with the published splits")] = None,
    labels: Annotated[Path | None, typer.Option(help="video_id -> class file of a revised label space")] = None,
    subset: Annotated[int | None, typer.Option(help="first 100, 300, 1000 or 2000 classes")] = None,
    pattern: Annotated[str, typer.Option(help="file names without suffix, such as {gloss}_{id}_{n}")] = "{id}",
    workers: Annotated[int, typer.Option(min=1, help="processes that decode")] = os.cpu_count() or 1,
) -> None:
    """WLASL json and a folder of videos -> manifest; absent videos stay in it as missing."""
    from islr.data.labels import read_labels
    from islr.data.wlasl import from_wlasl
    from islr.training.tracking import Progression

    space = read_labels(labels) if labels else None
    with Progression("scanning", 0) as bar:
        manifest = from_wlasl(
            json_file,
            videos,
            poses=poses,
            nslt=nslt,
            labels=space,
            subset=subset,
            pattern=pattern,
            workers=workers,
            out=out,
            progress=bar.callback,
        )
    manifest.save(out)
    _print_audit(manifest)


@data_app.command("folder")
def data_folder(
    videos: Annotated[Path, typer.Argument(help="folder of videos, or of one folder per class")],
    out: Annotated[Path, typer.Option(help="manifest.csv to write")],
    poses: Annotated[Path | None, typer.Option(help="folder of poses laid out like the videos")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that decode")] = os.cpu_count() or 1,
) -> None:
    """A folder of videos, unlabelled or one folder per class -> manifest."""
    from islr.data.corpora import from_folder
    from islr.training.tracking import Progression

    with Progression("scanning", 0) as bar:
        manifest = from_folder(videos, poses=poses, workers=workers, out=out, progress=bar.callback)
    manifest.save(out)
    _print_audit(manifest)


@data_app.command("audit")
def data_audit(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv")],
    as_json: Annotated[bool, typer.Option("--json", help="print json instead of a table")] = False,
    out: Annotated[Path | None, typer.Option(help="also write the json here (the report reads audit.json)")] = None,
) -> None:
    """Count what is there, missing, broken, duplicated, shared between splits."""
    from islr.data.audit import audit, render_audit
    from islr.data.manifest import Manifest
    from islr.files import write_atomic

    found = audit(Manifest.load(manifest))
    text = json.dumps(found, indent=1)
    if out is not None:
        write_atomic(out, text + "\n")
    print(text if as_json else render_audit(found))


def _print_audit(manifest: Any) -> None:
    from islr.data.audit import audit, render_audit

    print(render_audit(audit(manifest)))
