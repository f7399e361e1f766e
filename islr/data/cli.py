"""The `islr data` commands. Like `islr/cli.py` it imports inside its commands, so that `--help` answers at once."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from islr.errors import UserError

data_app = typer.Typer(no_args_is_help=True, help="Turn files into manifests, and look at what is really there.")


@data_app.command("wlasl")
def data_wlasl(
    json_file: Annotated[Path, typer.Option("--json", help="WLASL_v0.3.json, or one with its schema")],
    videos: Annotated[Path, typer.Option(help="folder of <video_id>.mp4")],
    out: Annotated[Path, typer.Option(help="manifest.csv to write")],
    poses: Annotated[Path | None, typer.Option(help="folder of <video_id>.npz")] = None,
    nslt: Annotated[Path | None, typer.Option(help="nslt_*.json with the published splits")] = None,
    labels: Annotated[
        list[Path] | None, typer.Option(help="revised label space: video_id -> class (csv, tsv, xlsx, lists); repeat")
    ] = None,
    forms: Annotated[
        list[Path] | None, typer.Option(help="the same kind of file, to score by form and keep the glosses as labels")
    ] = None,
    label_names: Annotated[Path | None, typer.Option(help="names of numbered classes, one a line")] = None,
    class_list: Annotated[Path | None, typer.Option(help="wlasl_class_list.txt, to check the order of classes")] = None,
    subset: Annotated[int | None, typer.Option(help="first 100, 300, 1000 or 2000 classes")] = None,
    pattern: Annotated[str, typer.Option(help="file names without suffix, such as {gloss}_{id}_{n}")] = "{id}",
    workers: Annotated[int, typer.Option(min=1, help="processes that decode")] = os.cpu_count() or 1,
) -> None:
    """WLASL json and a folder of videos -> manifest; absent videos stay in it as missing."""
    from islr.data.labels import read_labels, with_forms
    from islr.data.wlasl import from_wlasl
    from islr.training.tracking import Progression

    if labels and forms:
        raise UserError("--labels makes the forms the labels, --forms keeps the glosses as labels; give one of the two")
    if label_names and not (labels or forms):
        raise UserError("--label-names names the numbered classes of --labels or --forms; give one of the two")
    space = read_labels(labels, label_names) if labels else None
    shapes = read_labels(forms, label_names) if forms else None
    with Progression("scanning", 0) as bar:
        manifest = from_wlasl(
            json_file,
            videos,
            poses=poses,
            nslt=nslt,
            class_list=class_list,
            labels=space,
            subset=subset,
            pattern=pattern,
            workers=workers,
            out=out,
            progress=bar.callback,
        )
    if shapes is not None:
        manifest = with_forms(manifest, shapes)
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


@data_app.command("phonology")
def data_phonology(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv")],
    lexicon: Annotated[Path, typer.Option(help="ASL-LEX's signdata.csv, or another lexicon with --columns")],
    columns: Annotated[
        Path | None, typer.Option(help="yaml: entry, lemma, features {feature: column}, missing [cells]")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="agree, exact or single; or FEATURE=POLICY, repeated")
    ] = None,
    by: Annotated[Literal["form", "gloss"] | None, typer.Option(help="default: form where there are forms")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print json instead of a table")] = False,
) -> None:
    """Join a lexicon to a corpus and print what it covers: words, clips, and each feature's labels."""
    from islr.config import load_config
    from islr.data.manifest import Manifest
    from islr.data.phonology import ASL_LEX, Columns, join, parse_policies, read_table, render_coverage

    declared = ASL_LEX if columns is None else load_config(Columns, columns)
    table = read_table(lexicon, declared)
    coverage = join(Manifest.load(manifest), table, by=by, policy=parse_policies(policy or [])).coverage
    print(json.dumps(coverage, indent=1) if as_json else render_coverage(coverage))


@data_app.command("pack")
def data_pack(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv")],
    out: Annotated[Path, typer.Argument(help="folder for the pack; one that holds a part of it is continued")],
    short_side: Annotated[int, typer.Option(min=16, help="shrink to this many pixels; smaller frames stay")] = 256,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality")] = 90,
    shard_mb: Annotated[int, typer.Option(min=1, help="megabytes of one file")] = 256,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="share of clips that may fail to decode")] = 0.01,
    workers: Annotated[int, typer.Option(min=1, help="processes that decode")] = os.cpu_count() or 1,
    check: Annotated[bool, typer.Option("--check", help="read what is there already against its checksums")] = False,
) -> None:
    """Manifest -> trimmed, upright, shrunk clips in a few large files with random access, and their manifest."""
    from islr.data.manifest import Manifest
    from islr.data.pack import PackOptions, pack_manifest
    from islr.training.tracking import Progression

    options = PackOptions(short_side, quality, shard_mb, max_bad)
    with Progression("packing", 0) as bar:
        packed = pack_manifest(
            Manifest.load(manifest), out, options, workers=workers, check=check, progress=bar.callback
        )
    present = len(packed.select())
    size = sum(path.stat().st_size for path in out.glob("*.pack"))
    print(f"{out / 'manifest.csv'}: {present} of {len(packed)} clips, {size / 1e6:.1f} MB")


def _print_audit(manifest: Any) -> None:
    from islr.data.audit import audit, render_audit

    print(render_audit(audit(manifest)))
