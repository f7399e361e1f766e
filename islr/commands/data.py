"""The `islr data` commands. They import inside their functions, so that `--help` answers at once."""

import inspect
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from islr.commands.poses import poses_app
from islr.errors import UserError

data_app = typer.Typer(no_args_is_help=True, help="Convert, fetch, audit and pack corpora.")
data_app.add_typer(poses_app, name="poses")


_Root = Annotated[
    Path | None, typer.Option(help="data root, which holds all files that links lead to; default: the folder of videos")
]
_MixedPoses = Annotated[bool, typer.Option("--mixed-poses", help="accept poses that several programs made")]


@data_app.command("wlasl")
def data_wlasl(
    json_file: Annotated[Path, typer.Option("--json", help="WLASL_v0.3.json, or one with its schema")],
    videos: Annotated[Path, typer.Option(help="folder of <video_id>.mp4")],
    out: Annotated[Path, typer.Option(help="manifest.csv to write")],
    poses: Annotated[Path | None, typer.Option(help="folder of <video_id>.npz")] = None,
    nslt: Annotated[Path | None, typer.Option(help="nslt_*.json with the published splits")] = None,
    labels: Annotated[
        list[Path] | None, typer.Option(help="revised classes of video ids (csv, tsv, xlsx, lists); may be repeated")
    ] = None,
    forms: Annotated[
        list[Path] | None,
        typer.Option(help="file as for --labels, to score by form and keep glosses as labels"),
    ] = None,
    label_names: Annotated[Path | None, typer.Option(help="names of numbered classes, one a line")] = None,
    class_list: Annotated[Path | None, typer.Option(help="wlasl_class_list.txt, to check the order of classes")] = None,
    subset: Annotated[int | None, typer.Option(help="first 100, 300, 1000 or 2000 classes")] = None,
    pattern: Annotated[str, typer.Option(help="file names without suffix, such as {gloss}_{id}_{n}")] = "{id}",
    root: _Root = None,
    mixed_poses: _MixedPoses = False,
    workers: Annotated[int, typer.Option(min=1, help="processes that decode")] = os.cpu_count() or 1,
) -> None:
    """Write the manifest of WLASL. Absent videos stay in it as missing."""
    from islr.data.corpora.wlasl import from_wlasl
    from islr.data.labels import read_labels, with_forms
    from islr.progress import ProgressBar

    if labels and forms:
        raise UserError("--labels makes the forms the labels, --forms keeps the glosses as labels; give one of the two")
    if label_names and not (labels or forms):
        raise UserError("--label-names names the numbered classes of --labels or --forms; give one of the two")
    space = read_labels(labels, label_names) if labels else None
    shapes = read_labels(forms, label_names) if forms else None
    with ProgressBar("scanning", 0) as bar:
        manifest = from_wlasl(
            json_file,
            videos,
            poses=poses,
            nslt=nslt,
            class_list=class_list,
            labels=space,
            subset=subset,
            pattern=pattern,
            root=root,
            mixed_poses=mixed_poses,
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
    split: Annotated[
        list[str] | None, typer.Option(help="FOLDER=train|val|test|none: a top folder's split; may be repeated")
    ] = None,
    no_splits: Annotated[
        bool, typer.Option("--no-splits", help="top folders are classes, whatever their names")
    ] = False,
    labelled: Annotated[
        bool | None, typer.Option("--labelled/--unlabelled", help="folders are classes, or are not; default: if clear")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="pattern of files or folders to leave out")] = None,
    root: _Root = None,
    mixed_poses: _MixedPoses = False,
    workers: Annotated[int, typer.Option(min=1, help="processes that decode")] = os.cpu_count() or 1,
) -> None:
    """Write the manifest of a folder of videos. They are unlabelled, or lie in one folder per class, below splits.

    Says what it recognised, and writes the outcome of every file to <out>.outcomes.csv.
    """
    from islr.data.corpora.folder import FolderLayout, from_folder
    from islr.progress import ProgressBar

    if no_splits and split:
        raise UserError(
            "--split names the split of a top folder, --no-splits says that there is none; give one of the two"
        )
    pairs = dict(text.rpartition("=")[::2] for text in split or [])
    layout = FolderLayout(labelled, None if no_splits else pairs, ignore or [])
    with ProgressBar("scanning", 0) as bar:
        manifest = from_folder(
            videos,
            poses=poses,
            mixed_poses=mixed_poses,
            layout=layout,
            root=root,
            workers=workers,
            out=out,
            progress=bar.callback,
        )
    manifest.save(out)
    _print_audit(manifest)


def _corpus(corpus: str, summary: str, /, **inputs: Any) -> None:
    """Add `islr data NAME`: its own inputs, and those that every corpus published as a list has.

    Args:
        corpus: A name in `islr.data.corpora.registry.CORPORA`, whose function is called.
        summary: The command's help.
        inputs: The function's arguments, as types with a `typer.Option`; one that may be None may be left out. They
            replace common inputs of their name; None = the corpus has no such input.
    """
    common = {
        "videos": Annotated[Path, typer.Option(help="folder of videos; files are found at any depth by their name")],
        "out": Annotated[Path, typer.Option(help="manifest.csv to write")],
        "poses": Annotated[Path | None, typer.Option(help="folder of <clip id>.npz")],
        "root": _Root,
        "mixed_poses": _MixedPoses,
        "workers": Annotated[int, typer.Option(min=1, help="processes that decode")],
    }
    defaults = {"workers": os.cpu_count() or 1, "mixed_poses": False}

    def command(**given: Any) -> None:
        from islr.data.corpora.registry import CORPORA
        from islr.progress import ProgressBar

        chosen = {key: value for key, value in given.items() if value is not None}
        with ProgressBar("scanning", 0) as bar:
            manifest = CORPORA[corpus](**chosen, progress=bar.callback)
        manifest.save(chosen["out"])
        _print_audit(manifest)

    types = {key: kind for key, kind in (inputs | {k: v for k, v in common.items() if k not in inputs}).items() if kind}
    command.__annotations__ = types
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=kind,
                default=defaults.get(
                    key, None if type(None) in get_args(get_args(kind)[0]) else inspect.Parameter.empty
                ),
            )
            for key, kind in types.items()
        ]
    )
    data_app.command(corpus, help=summary)(command)


def _input(kind: Any, text: str, name: str | None = None) -> Any:
    """Return the annotation of a corpus's input of type `kind`; `name` is the option where it differs."""
    return Annotated[kind, typer.Option(*([name] if name else []), help=text)]


_EACH = "; may be repeated"
_SPLIT = "split of each --list in order, or of all, where their names do not tell it"
_corpus(
    "openasl",
    "Write the manifest of OpenASL. Videos: whole YouTube videos <yid>.mp4, of which time ranges are decoded.",
    tsv=_input(Path, "tsv of vid, yid, start, end, and split if it has one"),
    boxes=_input(Path | None, "json of vid -> x0, y0, x1, y1 as shares of the picture"),
)
_corpus(
    "kinetics",
    "Write the manifest of Kinetics. Videos: cut clips <youtube id>_<start>_<end>.mp4, times in six digits.",
    lists=_input(list[Path], "csv of label, youtube_id, time_start, time_end, split" + _EACH, "--list"),
)
_corpus(
    "asl-citizen",
    "Write the manifest of ASL Citizen. Videos: named as in its lists.",
    lists=_input(list[Path], "train.csv, val.csv or test.csv of its splits folder" + _EACH, "--list"),
    splits=_input(list[str] | None, _SPLIT, "--split"),
)
_corpus(
    "msasl",
    "Write the manifest of MS-ASL. Videos: whole YouTube videos <youtube id>.mp4, of which time ranges are decoded.",
    lists=_input(list[Path], "MSASL_train.json, MSASL_val.json or MSASL_test.json" + _EACH, "--list"),
    subset=_input(int | None, "first 100, 200, 500 or 1000 classes"),
    class_names=_input(Path | None, "MSASL_classes.json, the names of the classes", "--classes"),
    synonyms=_input(Path | None, "MSASL_synonym.json, other spellings of the names"),
    splits=_input(list[str] | None, _SPLIT, "--split"),
)
_corpus(
    "autsl",
    "Write the manifest of AUTSL. Videos: signerX_sampleY_color.mp4.",
    lists=_input(list[Path], "train_labels.csv, validation_labels.csv or test_labels.csv" + _EACH, "--list"),
    signs=_input(Path, "SignList_ClassId_TR_EN.csv, the names of the classes"),
    splits=_input(list[str] | None, _SPLIT, "--split"),
)
_corpus(
    "lsa64",
    "Write the manifest of LSA64, split by person. Videos: SSS_PPP_RRR.mp4 (sign, person, repetition).",
    signs=_input(Path | None, "the published list of signs, 01|Opaque|R|; without it classes are numbers"),
    val_signers=_input(list[int] | None, "person held out for validation; default: 9" + _EACH, "--val-signer"),
    test_signers=_input(list[int] | None, "person held out for the test; default: 10" + _EACH, "--test-signer"),
)
_corpus(
    "slovo",
    "Write the manifest of Slovo. Videos: <attachment_id>.mp4, trimmed, or whole, of which time ranges are decoded.",
    annotations=_input(Path, "annotations.csv: attachment_id, user_id, text, train, begin, end"),
)
_corpus(
    "youtube-asl",
    "Write the manifest of YouTube videos, such as YouTube-ASL. Videos: whole unlabelled videos <id>.mp4.",
    ids=_input(Path, "a text file of ids, one a line"),
    name=_input(str | None, "name of the corpus in the manifest; default: youtube-asl"),
)
_corpus(
    "asl-signs",
    "Write the manifest of asl-signs, landmarks without videos. Participants are held out, or lists say the splits.",
    csv=_input(Path, "train.csv: path, participant_id, sequence_id, sign"),
    poses=_input(Path, "folder of <sequence_id>.npz, at any depth, made by `islr data poses convert`"),
    classes=_input(Path | None, "sign_to_prediction_index_map.json, the numbers of the classes"),
    split_lists=_input(list[Path] | None, "train.txt, val.txt, test.txt of sequence ids" + _EACH, "--split-list"),
    val_signers=_input(list[str] | None, "participant held out for validation" + _EACH, "--val-signer"),
    test_signers=_input(list[str] | None, "participant held out for the test" + _EACH, "--test-signer"),
    videos=None,
    workers=None,
)


@data_app.command("corpus")
def data_corpus(
    name: Annotated[str, typer.Argument(help="a corpus of a plug-in package, or path/to/file.py:Name")],
    out: Annotated[Path, typer.Option(help="manifest.csv to write")],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="the converter's inputs")] = None,
) -> None:
    """Write the manifest of a plug-in's corpus. Its converter is a function of the inputs that returns a Manifest."""
    from islr import plugins
    from islr.config_files import read_overrides
    from islr.data.corpora.registry import CORPORA
    from islr.data.manifest import Manifest

    convert = CORPORA.get(name) or plugins.find("corpus", name, CORPORA)
    given = read_overrides(inputs or [])
    try:
        inspect.signature(convert).bind(**given)
    except TypeError as error:
        raise UserError(f"corpus '{name}': {error}; its inputs are {inspect.signature(convert)}") from error
    manifest = convert(**given)
    if not isinstance(manifest, Manifest):
        raise UserError(f"corpus '{name}' returned {type(manifest).__name__}, not a Manifest")
    manifest.save(out)
    _print_audit(manifest)


@data_app.command("fetch")
def data_fetch(
    json_file: Annotated[Path, typer.Option("--json", help="WLASL_v0.3.json, or one with its schema")],
    out: Annotated[Path, typer.Option(help="folder for <video_id>.<suffix> and fetch.csv; run again to go on")],
    subset: Annotated[int | None, typer.Option(help="first 100, 300, 1000 or 2000 classes")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="downloads at a time, in all")] = 8,
    per_host: Annotated[int, typer.Option(min=1, help="downloads at a time from one host")] = 2,
    rate: Annotated[float, typer.Option(min=0.001, help="downloads started per second from one host")] = 2.0,
    retries: Annotated[int, typer.Option(min=0, help="further attempts after a temporary failure")] = 3,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for an answer or data")] = 30.0,
    max_mb: Annotated[int, typer.Option(min=1, help="largest file to download, in MiB")] = 2048,
    trim: Annotated[
        bool, typer.Option("--trim/--no-trim", help="cut clips to their range, or keep whole videos")
    ] = True,
    retry_dead: Annotated[bool, typer.Option("--retry-dead", help="retry videos recorded as permanently lost")] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="allow downloads from this machine and the local network")
    ] = False,
    cookies: Annotated[Path | None, typer.Option(help="cookies.txt for yt-dlp, which fetches from YouTube")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that check and cut")] = os.cpu_count() or 1,
) -> None:
    """Download the videos of a WLASL json, resumably. Decoding checks each; fetch.csv has an outcome per clip."""
    from islr.data.fetch.failure import TransferLimits
    from islr.data.fetch.run import FetchOptions, fetch
    from islr.data.fetch.table import TABLE, summarise
    from islr.errors import UserError
    from islr.progress import ProgressBar

    if cookies is not None and not cookies.is_file():
        raise UserError(f"{cookies}: no such file of cookies")
    options = FetchOptions(
        jobs=jobs,
        per_host=per_host,
        rate=rate,
        retries=retries,
        trim=trim,
        retry_dead=retry_dead,
        workers=workers,
        limits=TransferLimits(timeout, max_mb << 20, allow_private),
        cookies=cookies,
    )
    with ProgressBar("fetching", 0) as bar:
        rows = fetch(json_file, out, options, subset=subset, progress=bar.callback)
    print(f"{summarise(rows)}\n\n{out / TABLE}")


@data_app.command("audit")
def data_audit(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv")],
    as_json: Annotated[bool, typer.Option("--json", help="print json instead of a table")] = False,
    out: Annotated[Path | None, typer.Option(help="also write the json here (the report reads audit.json)")] = None,
) -> None:
    """Audit a corpus. Counts clips that are present, missing, broken, duplicated or shared between splits."""
    from islr.data.audit.corpus import audit, render_audit
    from islr.data.manifest import Manifest
    from islr.files import write_atomic

    findings = audit(Manifest.load(manifest))
    text = json.dumps(findings, indent=1)
    if out is not None:
        write_atomic(out, text + "\n")
    print(text if as_json else render_audit(findings))


@data_app.command("phonology")
def data_phonology(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv")],
    lexicon: Annotated[Path, typer.Option(help="ASL-LEX's signdata.csv, or another lexicon with --columns")],
    columns: Annotated[
        Path | None, typer.Option(help="yaml: entry, lemma, code, features {feature: column}, missing [cells]")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="agree, exact or single; or FEATURE=POLICY, repeated")
    ] = None,
    by: Annotated[
        Literal["code", "form", "gloss"] | None, typer.Option(help="default: the first of these that clips have")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print json instead of a table")] = False,
) -> None:
    """Join a lexicon to a corpus and print its coverage. Counts words, clips, and each feature's labels."""
    from islr.config import load_config
    from islr.data.manifest import Manifest
    from islr.data.phonology import ASL_LEX, Columns, join, parse_policies, read_asl_lex, render_coverage

    declared = ASL_LEX if columns is None else load_config(Columns, columns)
    table = read_asl_lex(lexicon, declared)
    coverage = join(Manifest.load(manifest), table, by=by, policy=parse_policies(policy or [])).coverage
    print(json.dumps(coverage, indent=1) if as_json else render_coverage(coverage))


@data_app.command("pack")
def data_pack(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv")],
    out: Annotated[Path, typer.Argument(help="folder for the pack; an unfinished pack is continued")],
    short_side: Annotated[int, typer.Option(min=16, help="shorter side of larger frames is reduced to this")] = 256,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality")] = 90,
    shard_mb: Annotated[int, typer.Option(min=1, help="size of one file in megabytes")] = 256,
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="share of clips that may fail to decode")] = 0.01,
    workers: Annotated[int, typer.Option(min=1, help="processes that decode")] = os.cpu_count() or 1,
    check: Annotated[bool, typer.Option("--check", help="verify clips packed earlier against their checksums")] = False,
) -> None:
    """Pack a corpus for fast random access. Clips are trimmed, turned upright, shrunk and stored in large files."""
    from islr.data.manifest import Manifest
    from islr.data.packs.writer import PackOptions, pack_manifest
    from islr.progress import ProgressBar

    options = PackOptions(short_side, quality, shard_mb, max_bad)
    with ProgressBar("packing", 0) as bar:
        packed = pack_manifest(
            Manifest.load(manifest), out, options, workers=workers, check=check, progress=bar.callback
        )
    present = len(packed.select())
    size = sum(path.stat().st_size for path in out.glob("*.pack"))
    print(f"{out / 'manifest.csv'}: {present} of {len(packed)} clips, {size / 1e6:.1f} MB")


def _print_audit(manifest: Any) -> None:
    from islr.data.audit.corpus import audit, render_audit

    print(render_audit(audit(manifest)))
