"""The converter of WLASL: the v0.3 json, the nslt jsons if given, and the user's videos.

Every instance of the json becomes a row, whether or not its file is present, so the size of the test set never depends
on the mirror that the videos came from.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from islr.data.corpora.layout import check_links, corpus_folders, data_root, pose_path, pose_programs, read_json
from islr.data.corpora.tables import read_lines
from islr.data.corpora.wlasl_json import Instance, read_instances
from islr.data.corpora.youtube import youtube_id
from islr.data.labels import Labels, read_labels, revise
from islr.data.manifest import CORRUPT, MISSING, OK, Box, Clip, Manifest
from islr.data.video.scan import Progress, Range, ScanJob, Scanned, cache_beside, find_videos, scan
from islr.errors import UserError
from islr.files import file_sha256

SUBSETS = (100, 300, 1000, 2000)
# A clip that was already cut has the length of its range; re-encoding and rounding move it by a few frames.
_PRE_CUT_TOLERANCE_S = 0.2
# Picture heights that the source sites deliver; boxes are in pixels of the original, which mirrors shrink.
_USUAL_HEIGHTS = (180, 192, 240, 270, 288, 320, 360, 370, 400, 414, 480, 540, 576, 720, 1080)
_MOST_RESPELT = 0.01  # share of classes; a list in another order differs almost everywhere
_BOX_SLACK = 1.01  # detectors round outwards
_ABSENT = Scanned(MISSING)


def from_wlasl(
    json: str | Path,
    videos: str | Path,
    *,
    poses: str | Path | None = None,
    nslt: str | Path | None = None,
    class_list: str | Path | None = None,
    subset: int | None = None,
    labels: Labels | str | Path | Sequence[str | Path] | None = None,
    label_names: str | Path | None = None,
    mixed_poses: bool = False,
    pattern: str = "{id}",
    trimmed: Collection[str] = (),
    name: str = "wlasl",
    root: str | Path | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make the manifest of WLASL.

    Classes are glosses in the order of the json, which is also the class order of the nslt jsons.

    Args:
        json: `WLASL_v0.3.json` or a file of its schema.
        videos: A folder; videos are found at any depth by their name: the video id, or the YouTube id of whole videos.
        poses: A folder of `<video_id>.npz` pose files.
        nslt: `nslt_<n>.json`: only its clips are kept, and its splits and classes are checked against the
            json.
        class_list: `wlasl_class_list.txt`: its order is checked against the json's glosses; a class that is spelt
            otherwise there (163: "losear", in the json "lose") is noted.
        subset: Only the first n glosses.
        labels: A revised label space, or its files; see `islr.data.labels`.
        label_names: The class names of numbered labels, one a line.
        mixed_poses: Accept poses that several programs made.
        pattern: File names without suffix: `{id}`, `{gloss}` and `{n}` stand for the video id, the gloss and any
            number, e.g. `{gloss}_{id}_{n}`.
        trimmed: Ids of the videos that are cut to their time range already (`islr.data.fetch.table.trimmed_ids`).
        name: The corpus's name.
        root: The data root; None = the folder that holds both videos and poses.
        out: The path that the manifest will be saved to; the scan's cache lies beside it.
        workers, progress: See `islr.data.video.scan.scan`.

    Raises:
        UserError: A file or folder is missing or of another kind.
    """
    listing = _listing(json, nslt, class_list, subset)
    folder, pose_folder = corpus_folders(videos, poses)
    base = data_root((folder, pose_folder), root)
    files, unused = _match(find_videos(folder), listing.instances, pattern)
    jobs = _scan_jobs(listing.instances, files)
    pose_of = {i.video_id: pose_path(pose_folder, i.video_id, base) for i in listing.instances}
    linked = check_links([job.path for job in jobs], base)
    programs = pose_programs(pose_of.values(), base, mixed_poses)
    results = scan(jobs, base, workers=workers, cache=cache_beside(out), progress=progress)
    scanned = {job.path: (job, result) for job, result in zip(jobs, results, strict=True)}
    counts: Counter[str] = Counter()
    clips = []
    for instance in listing.instances:
        if instance.video_id in trimmed:
            instance = replace(instance, span=(None, None))
            counts["ranges_of_clips_already_cut"] += 1
        path = files.get(instance.video_id, folder / f"{instance.video_id}.mp4")
        clip = _clip(instance, *scanned.get(path, (ScanJob(path), _ABSENT)), base, counts)
        if pose_folder is not None:
            clip = replace(clip, pose=pose_of[instance.video_id])
            counts["clips_with_video_but_no_pose"] += clip.status == OK and not clip.pose
        clips.append(clip)
    notes = {
        **listing.notes,
        "video_files_not_in_json": unused,
        "same_origin": _same_origin(listing.instances),
        **dict(sorted(counts.items())),
        **linked,
        **programs,
    }
    manifest = Manifest(name, tuple(clips), base, tuple(listing.glosses), listing.sources, notes)
    if labels is None:
        return manifest
    if not isinstance(labels, Labels):
        labels = read_labels(labels, label_names)
    return revise(manifest, labels, only_used=subset is not None)


@dataclass(frozen=True)
class _Listing:
    """What the list files say: the instances to find, the class names, the files' hashes, and notes."""

    instances: list[Instance]
    glosses: list[str]
    sources: dict[str, str]
    notes: dict[str, Any]


def _listing(json: str | Path, nslt: str | Path | None, class_list: str | Path | None, subset: int | None) -> _Listing:
    """Read the json, check it against the other list files, and keep the clips of the nslt json and the subset."""
    instances, glosses, left_out = read_instances(json)
    sources = {Path(path).name: file_sha256(path) for path in (json, nslt, class_list) if path is not None}
    notes: dict[str, Any] = {"instances_in_json": len(instances), "glosses_in_json": len(glosses)}
    if left_out:
        notes["rows_left_out"] = left_out
    if nslt is not None:
        instances = _check_nslt(instances, glosses, Path(nslt), notes)
    if class_list is not None:
        notes["classes_spelt_otherwise"] = _check_class_list(glosses, Path(class_list))
    if subset is not None:
        if not 0 < subset <= len(glosses):
            raise UserError(f"subset {subset}: {json} has {len(glosses)} glosses; usual are {SUBSETS}")
        instances = [instance for instance in instances if instance.label < subset]
        glosses = glosses[:subset]
    elif nslt is not None:
        glosses = glosses[: max(instance.label for instance in instances) + 1]
    return _Listing(instances, glosses, sources, notes)


def fit_box(box: Box, width: int, height: int) -> tuple[Box | None, bool]:
    """Convert a box of the original video to pixels of the user's file; also return whether it was scaled.

    The json does not give the size of the original. A box that fits into the file is used as it is. Any other box was
    measured on a larger picture of the same shape: the smallest usual one that contains it.
    """
    need = max(box[2] / width, box[3] / height)
    scale = 1.0
    if need > _BOX_SLACK:
        taller = [usual / height for usual in _USUAL_HEIGHTS if usual / height * _BOX_SLACK >= need]
        scale = min(taller, default=need)
    x0, x1 = (min(max(x / scale, 0.0), float(width)) for x in (box[0], box[2]))
    y0, y1 = (min(max(y / scale, 0.0), float(height)) for y in (box[1], box[3]))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None, scale != 1.0
    return (round(x0, 1), round(y0, 1), round(x1, 1), round(y1, 1)), scale != 1.0


def _same_origin(instances: list[Instance]) -> list[list[str]]:
    """Group the ids of instances that are one recording: the same address and the same time range."""
    groups: dict[tuple[str, Range], list[str]] = {}
    for instance in instances:
        if instance.url:
            groups.setdefault((instance.url, instance.span), []).append(instance.video_id)
    return [ids for ids in groups.values() if len(ids) > 1]


def _clip(instance: Instance, job: ScanJob, scanned: Scanned, base: Path, counts: Counter[str]) -> Clip:
    clip = Clip(
        clip_id=instance.video_id,
        path=job.path.relative_to(base).as_posix(),
        gloss=instance.gloss,
        label=instance.label,
        split=instance.split,
        variation=instance.variation,
        signer=instance.signer,
        source=instance.source,
        status=scanned.status,
    )
    if scanned.status != OK:
        return clip
    clip = replace(
        clip, frames=scanned.frames, fps=round(scanned.fps, 4) or None, width=scanned.width, height=scanned.height
    )
    if instance.span != (None, None):
        at = job.ranges.index(instance.span)
        first, frames = scanned.firsts[at], scanned.counts[at]
        whole_video = job.path.stem not in (instance.video_id, instance.video_id.lstrip("0")) and (
            job.path.stem == youtube_id(instance.url)
        )
        if whole_video or _is_uncut(instance.span, scanned, frames):
            counts["ranges_used"] += 1
            clip = replace(clip, start=instance.span[0], end=instance.span[1], frames=frames)
            clip = replace(clip, first_frame=first, file_frames=scanned.frames)
            clip = replace(clip, status=OK if frames else CORRUPT + "no frames")
        else:
            counts["ranges_of_clips_already_cut"] += 1
    if instance.box is not None:
        box, scaled = fit_box(instance.box, scanned.width, scanned.height)
        counts["boxes_scaled_to_the_file"] += scaled
        counts["boxes_outside_the_picture"] += box is None
        clip = replace(clip, box=box)
    return clip


def _is_uncut(span: Range, scanned: Scanned, frames: int) -> bool:
    """Return whether a range counts from this file's beginning; False if the file is cut to the range already."""
    start, end = span[0] or 0.0, span[1]
    if end is None:
        return start < scanned.duration - _PRE_CUT_TOLERANCE_S and frames > 0
    if abs(scanned.duration - (end - start)) <= _PRE_CUT_TOLERANCE_S:
        return False
    return end <= scanned.duration + _PRE_CUT_TOLERANCE_S and frames > 0


def _match(found: Iterable[Path], instances: Sequence[Instance], pattern: str) -> tuple[dict[str, Path], int]:
    """Return the file of each video id, and how many files belong to none.

    A file of the id itself comes first, then the whole video that the published downloader names by its YouTube id.
    """
    if "{id}" not in pattern:
        raise UserError(f"pattern '{pattern}': {{id}} must stand where file names have the video id")
    expression = re.escape(pattern)
    for field, meaning in (("id", r"(?P<id>[A-Za-z0-9-]+)"), ("gloss", r".+"), ("n", r"\d+")):
        expression = expression.replace(re.escape(f"{{{field}}}"), meaning, 1)
    shape = re.compile(expression)
    requested = {instance.video_id for instance in instances}
    on_youtube = {i.video_id: video for i in instances if (video := youtube_id(i.url)) is not None}
    whole_videos = set(on_youtube.values()) - requested
    files_of: dict[str, Path] = {}
    whole_of: dict[str, Path] = {}
    unused = 0
    for path in found:
        match = shape.fullmatch(path.stem)
        video_id = match["id"] if match else ""
        if video_id not in requested and video_id.isdecimal():
            video_id = video_id.zfill(5)  # some mirrors lost the leading zeros
        if video_id in requested and video_id not in files_of:
            files_of[video_id] = path
        elif path.stem in whole_videos and path.stem not in whole_of:
            whole_of[path.stem] = path
        else:
            unused += 1
    files_of = {i: whole_of[video] for i, video in on_youtube.items() if video in whole_of} | files_of
    if not files_of:
        raise UserError(f"no video is named '{pattern}' with an id of the json; use --pattern for other names")
    return files_of, unused


def _scan_jobs(instances: Sequence[Instance], files: Mapping[str, Path]) -> list[ScanJob]:
    """Return each file once, with the ranges that are instances of it."""
    ranges: dict[Path, dict[Range, None]] = {}
    for instance in instances:
        if instance.video_id in files:
            spans = ranges.setdefault(files[instance.video_id], {})
            if instance.span != (None, None):
                spans[instance.span] = None
    return [ScanJob(path, tuple(spans)) for path, spans in ranges.items()]


def _check_nslt(instances: list[Instance], glosses: list[str], path: Path, notes: dict[str, Any]) -> list[Instance]:
    entries = read_json(path, dict)
    known = {instance.video_id: instance for instance in instances}
    try:
        listed = {str(key): (str(value["subset"]), int(value["action"][0])) for key, value in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not an nslt json ({error!r})") from error
    for video_id, (split, label) in listed.items():
        instance = known.get(video_id)
        if instance is not None and (instance.split, instance.label) != (split, label):
            raise UserError(
                f"{path}: clip {video_id} is {split} of class {label} here, but {instance.split} of class"
                f" {instance.label} ({glosses[instance.label]}) in the json; the files do not belong together"
            )
    # Remains of an earlier release: no signer, source or url, and no published loader uses them.
    notes["nslt_ids_not_in_json"] = sorted(set(listed) - set(known))
    kept = [instance for instance in instances if instance.video_id in listed]
    if not kept:
        raise UserError(f"{path}: shares no clip with the json")
    notes["json_ids_not_in_nslt"] = len(instances) - len(kept)
    return kept


def _check_class_list(glosses: Sequence[str], path: Path) -> list[str]:
    """Return the classes that the list `index<TAB>gloss` names otherwise than the json."""
    try:
        rows = [line.split("\t") for line in read_lines(path) if line.strip()]
        listed = {int(index): name.strip() for index, name in rows}
    except ValueError as error:
        raise UserError(f"{path}: not a class list, lines of index, tab, gloss ({error})") from error
    other = {i: name for i, name in listed.items() if name != (glosses[i] if 0 <= i < len(glosses) else "")}
    if len(listed) != len(glosses) or len(other) > max(1, len(glosses) * _MOST_RESPELT):
        raise UserError(
            f"{path}: {len(listed)} classes, {len(other)} of them other than the json's {len(glosses)} glosses; "
            "the files do not belong together"
        )
    return [f"{i}: {name}, in the json {glosses[i]}" for i, name in sorted(other.items())]
