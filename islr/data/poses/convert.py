"""The converter of a folder of foreign pose files to a folder of canonical ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from islr.data.manifest import Clip, Manifest
from islr.data.poses.folder import PoseFolder
from islr.data.poses.pose import VideoFacts
from islr.data.poses.readers import find_poses, pose_clips
from islr.errors import UserError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Converted:
    """The converted folder, and the files below the source that are of no known pose format."""

    folder: PoseFolder
    ignored: list[Path]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    format_name: str = "auto",
    given: VideoFacts | None = None,
    manifest: Manifest | None = None,
    made_by: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write every pose below a folder as `<its path>.npz`, and one outcome per clip.

    Args:
        source: A folder of pose files, or one file.
        out: The folder to write; a second run adds what is missing and retries what failed.
        format_name: A name in POSE_READERS, or "auto".
        given: Frame rate and picture size for formats that lack them; they take precedence over the manifest's.
        manifest: Measured frame rates and sizes, found by clip id or by the last part of a clip's path.
        made_by: The program that estimated the points, its version and settings, where the files do not say it.
        overwrite: Also read poses that exist already; only a good pose replaces a good one.
        progress: Called with (files done, files in all).

    Raises:
        UserError: The source or a name cannot be used, or not one clip could be read.
    """
    source, out = Path(source), Path(out)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} is inside {source}, so that its poses would count as sources; write elsewhere")
    found, ignored = find_poses(source, format_name)
    folder = PoseFolder(out)
    measured = {clip.clip_id: clip for clip in manifest or ()}
    files_done, last, reason = 0, None, ""
    try:
        for clip in pose_clips(found, source, format_name):
            if progress is not None and clip.source != last:
                progress(files_done, len(found))
                files_done, last = files_done + 1, clip.source
            if not overwrite and folder.has(clip.clip_id):
                continue
            row = measured.get(clip.clip_id) or measured.get(clip.clip_id.rpartition("/")[2])
            about = {"source": clip.source.name, "made_by": clip.format, "label": clip.label}
            try:
                pose = clip.read(_facts(given or VideoFacts(), row))
                unknown = "" if clip.format == "npz" else f"unknown program ({clip.format} files)"
                folder.put(clip.clip_id, replace(pose, made_by=made_by or pose.made_by or unknown), **about)
            except UserError as error:
                reason = reason or str(error)
                folder.fail(clip.clip_id, str(error), **about)
        if progress is not None:
            progress(len(found), len(found))
    finally:
        folder.save()
    if set(folder.counts()) <= {"failed"}:
        raise UserError(f"no pose could be read; the first error: {reason}")
    return Converted(folder, ignored)


def _facts(given: VideoFacts, row: Clip | None) -> VideoFacts:
    if row is None:
        return given
    size = (given.width or row.width, given.height or row.height)
    return VideoFacts(given.fps, *size, row.fps, (row.frames, row.file_frames))
