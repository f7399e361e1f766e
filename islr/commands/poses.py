"""The `islr data poses` commands. They import inside their functions, so that `--help` answers at once."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

poses_app = typer.Typer(no_args_is_help=True, help="Convert, extract and audit poses.")
_EXAMPLES = 5


@poses_app.command("convert")
def poses_convert(
    source: Annotated[Path, typer.Argument(help="folder of pose files, or one file")],
    out: Annotated[Path, typer.Argument(help="folder to write <clip>.npz and outcomes.csv to")],
    format_name: Annotated[
        str, typer.Option("--format", help="auto, npz, pose, openpose, kaggle, openhands or spoter")
    ] = "auto",
    fps: Annotated[float | None, typer.Option(help="frames per second, if the format lacks it")] = None,
    size: Annotated[str | None, typer.Option(help="picture size such as 640x480, if the format lacks it")] = None,
    manifest: Annotated[Path | None, typer.Option(help="manifest.csv with frame rate and size of each clip")] = None,
    made_by: Annotated[
        str, typer.Option(help="program, version and settings that made the poses, if not in them")
    ] = "",
    overwrite: Annotated[bool, typer.Option(help="convert clips again that are already converted")] = False,
) -> None:
    """Convert pose files to canonical npz, one per clip."""
    from islr.data.manifest import Manifest
    from islr.data.poses.convert import convert
    from islr.data.poses.pose import VideoFacts
    from islr.errors import UserError
    from islr.progress import ProgressBar

    if fps is not None and not fps > 0:
        raise UserError(f"--fps is above 0, not {fps:g}")
    facts = VideoFacts(fps, *_size(size))
    known = Manifest.load(manifest) if manifest is not None else None
    with ProgressBar("converting", 0) as bar:
        converted = convert(
            source,
            out,
            format_name=format_name,
            given=facts,
            manifest=known,
            made_by=made_by,
            overwrite=overwrite,
            progress=bar.callback,
        )
    _print_outcomes(converted.folder)
    if converted.ignored:
        names = ", ".join(path.name for path in converted.ignored[:_EXAMPLES])
        print(f"ignored, not poses of this format: {len(converted.ignored)} files ({names})")


@poses_app.command("extract")
def poses_extract(
    videos: Annotated[Path, typer.Argument(help="manifest.csv, or a folder of videos")],
    out: Annotated[Path, typer.Argument(help="folder to write <clip>.npz and outcomes.csv to")],
    python: Annotated[Path | None, typer.Option(help="interpreter of an environment with MediaPipe")] = None,
    complexity: Annotated[int, typer.Option(min=0, max=2, help="of the body's model; 0 and 2 need --model")] = 1,
    model: Annotated[
        Path | None, typer.Option(help="pose_landmark_lite.tflite or pose_landmark_heavy.tflite, for complexity 0 or 2")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes; each keeps about two cores busy")] = 1,
    overwrite: Annotated[bool, typer.Option(help="extract clips again that are already extracted")] = False,
) -> None:
    """Extract poses from videos with MediaPipe Holistic. MediaPipe needs an environment of its own."""
    from islr.data.manifest import Manifest
    from islr.data.poses.extract import HOW_TO, extract
    from islr.errors import UserError
    from islr.progress import ProgressBar

    if python is None:
        print(HOW_TO)
        raise UserError("no environment with MediaPipe was given; make one as above and pass --python")
    corpus = Manifest.load(videos) if videos.suffix.lower() == ".csv" else videos
    with ProgressBar("extracting poses", 0) as bar:
        folder = extract(
            corpus,
            out,
            python=python,
            complexity=complexity,
            model=model,
            workers=workers,
            overwrite=overwrite,
            progress=bar.callback,
        )
    _print_outcomes(folder)


@poses_app.command("audit")
def poses_audit(
    corpora: Annotated[
        list[Path], typer.Argument(help="manifest.csv, or folders of poses", metavar="MANIFEST|FOLDER...")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print json instead of text")] = False,
) -> None:
    """Audit the poses of corpora. Covers detection, direction of y, ranges, jitter and agreement with the videos.

    Two folders of poses of the same clips are also compared with each other.
    """
    from islr.data.audit.pose_folders import agreement, audit_paths, is_manifest, render_agreement
    from islr.data.audit.poses import render_pose_audit

    reports = audit_paths(corpora)
    compared = agreement(*corpora) if len(corpora) == 2 and not any(map(is_manifest, corpora)) else None
    if as_json:
        found = [*reports, *([compared] if compared else [])]
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1))
    else:
        print("\n\n".join([*map(render_pose_audit, reports), *([render_agreement(compared)] if compared else [])]))


def _size(text: str | None) -> tuple[int | None, int | None]:
    from islr.errors import UserError

    if text is None:
        return None, None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--size is width and height such as 640x480, not '{text}'")
    return int(parts[0]), int(parts[1])


def _print_outcomes(folder: Any) -> None:
    counts = ", ".join(f"{n} {status}" for status, n in sorted(folder.counts().items())) or "no clips"
    print(f"{folder.folder}: {counts}; one row per clip in outcomes.csv")
    troubled = [row for row in folder.rows.values() if row.detail]
    for row in troubled[:_EXAMPLES]:
        print(f"  {row.clip_id}: {row.status}: {row.detail}")
    if len(troubled) > _EXAMPLES:
        print(f"  and {len(troubled) - _EXAMPLES} more")
