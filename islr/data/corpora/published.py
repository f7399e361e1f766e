"""Converters of corpora that are published as lists of clips, often time ranges inside long videos.

Each list becomes rows; `assemble` finds and measures their files and makes the manifest. A clip whose file is absent
is marked as missing. Time ranges are decoded in place, so no video has to be cut.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from islr.data.corpora.layout import SPLIT_NAMES, corpus_folders, data_root, pose_path, read_json, read_text
from islr.data.corpora.youtube import youtube_id
from islr.data.manifest import CORRUPT, MISSING, OK, Box, Clip, Manifest
from islr.data.video.scan import Progress, Range, ScanJob, Scanned, cache_beside, find_videos, scan
from islr.errors import UserError
from islr.files import file_sha256

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class ListedClip:
    """One clip of a published list; `stem` is its file's name without suffix, `box` is relative (0..1)."""

    clip_id: str
    stem: str
    gloss: str = ""
    split: str = "none"
    signer: str = ""
    start: float | None = None
    end: float | None = None
    box: Box | None = None
    frame_range: tuple[int, int] | None = None


def assemble(
    rows: Sequence[ListedClip],
    videos: str | Path,
    *,
    name: str,
    sources: Iterable[str | Path],
    classes: Sequence[str] | None = None,
    poses: str | Path | None = None,
    root: str | Path | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make a manifest of rows and the videos below a folder.

    Args:
        rows: The clips.
        videos: The folder; files are found at any depth by their stem.
        name: The corpus's name.
        sources: The list files, whose hashes the manifest keeps.
        classes: Class names in the published order; None = the rows' glosses, sorted.
        poses: A folder of `<clip id>.npz`.
        root: The data root; None = the folder that holds videos and poses.
        workers, progress: See `islr.data.video.scan.scan`.
        out: The path that the manifest will be saved to; the scan's cache lies beside it.

    Raises:
        UserError: A clip id occurs twice, a folder is missing, or not one video belongs to the list.
    """
    folder, pose_folder = corpus_folders(videos, poses)
    base = data_root((folder, pose_folder), root)
    repeated = [clip_id for clip_id, times in Counter(row.clip_id for row in rows).items() if times > 1]
    if repeated:
        raise UserError(f"{name}: clip '{repeated[0]}' is listed twice")
    jobs = _scan_jobs(rows, find_videos(folder))
    if not jobs:
        raise UserError(f"{videos}: no video belongs to the list; names look like '{rows[0].stem}.mp4'")
    results = scan(jobs, base, workers=workers, cache=cache_beside(out), progress=progress)
    scanned = {job.path.stem: (job, result) for job, result in zip(jobs, results, strict=True)}
    names = list(classes) if classes is not None else sorted({row.gloss for row in rows if row.gloss})
    index = {gloss: label for label, gloss in enumerate(names)}
    clips = []
    for row in rows:
        job, result = scanned.get(row.stem, (ScanJob(folder / f"{row.stem}.mp4"), Scanned(MISSING)))
        clips.append(
            Clip(
                clip_id=row.clip_id,
                path=job.path.relative_to(base).as_posix(),
                gloss=row.gloss,
                label=index.get(row.gloss),
                split=row.split,
                signer=row.signer,
                source=name,
                pose=pose_path(pose_folder, row.clip_id, base),
                **_measured(row, job, result),
            )
        )
    hashes = {Path(source).name: file_sha256(source) for source in sources}
    return Manifest(name, tuple(clips), base, tuple(names), hashes)


def _scan_jobs(rows: Sequence[ListedClip], found: Sequence[Path]) -> list[ScanJob]:
    """Return the files that rows name, each with the time ranges that are clips of it."""
    stems = {row.stem for row in rows}
    files = {path.stem: path for path in reversed(found) if path.stem in stems}
    ranges: dict[str, dict[Range, None]] = {}
    for row in rows:
        if row.start is not None or row.end is not None:
            ranges.setdefault(row.stem, {})[row.start, row.end] = None
    return [ScanJob(path, tuple(ranges.get(stem, {}))) for stem, path in files.items()]


def _measured(row: ListedClip, job: ScanJob, result: Scanned) -> dict[str, Any]:
    """Return the columns of a clip that are measured by decoding its file."""
    start, end, frames = row.start, row.end, result.frames
    if result.status != OK:
        return {"status": result.status, "start": start, "end": end}
    if row.frame_range is not None:
        first, last = row.frame_range
        if 0 <= first < last <= result.frames and (first, last) != (0, result.frames):
            # Half a frame early: the range must hold its first frame whatever the file's clock rounds to.
            start, end, frames = max(0.0, first - 0.5) / result.fps, (last - 0.5) / result.fps, last - first
    elif (start, end) != (None, None):
        frames = result.counts[job.ranges.index((start, end))]
    box = None
    if row.box is not None:
        x0, x1 = (round(min(max(x, 0.0), 1.0) * result.width, 1) for x in (row.box[0], row.box[2]))
        y0, y1 = (round(min(max(y, 0.0), 1.0) * result.height, 1) for y in (row.box[1], row.box[3]))
        box = (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
    return {
        "status": OK if frames else CORRUPT + "no frames",
        "start": start,
        "end": end,
        "box": box,
        "frames": frames,
        "fps": round(result.fps, 4),
        "width": result.width,
        "height": result.height,
    }


def from_openasl(tsv: str | Path, videos: str | Path, *, boxes: str | Path | None = None, **options: Any) -> Manifest:
    """Convert OpenASL: a tsv with vid, yid, start, end (and split); `<yid>.mp4` are whole videos; boxes by vid."""
    known = read_json(boxes, dict) if boxes is not None else {}
    rows = [
        ListedClip(
            clip_id=cells["vid"],
            stem=cells["yid"],
            split=_split(cells.get("split", "none"), where),
            start=_seconds(cells["start"], where),
            end=_seconds(cells["end"], where),
            box=_box(known.get(cells["vid"]), where),
        )
        for where, cells in _table(tsv, ("vid", "yid", "start", "end"))
    ]
    sources = [tsv, *([boxes] if boxes is not None else [])]
    return assemble(rows, videos, name="openasl", sources=sources, **options)


def from_kinetics(lists: Paths, videos: str | Path, **options: Any) -> Manifest:
    """Convert Kinetics: csv files with label, youtube_id, time_start, time_end, split; clips are cut already."""
    files = _paths(lists)
    rows = []
    for where, cells in _tables(files, ("youtube_id", "time_start", "time_end", "split")):
        first, last = (round(_seconds(cells[key], where)) for key in ("time_start", "time_end"))
        stem = f"{cells['youtube_id']}_{first:06d}_{last:06d}"
        rows.append(ListedClip(stem, stem, cells.get("label", ""), _split(cells["split"], where)))
    return assemble(rows, videos, name="kinetics", sources=files, **options)


def from_asl_citizen(lists: Paths, videos: str | Path, **options: Any) -> Manifest:
    """Convert ASL Citizen: train.csv, val.csv and test.csv with participant, video file, gloss and ASL-LEX code."""
    files = _paths(lists)
    rows = []
    for path in files:
        split = _split(path.stem, str(path))
        for _, cells in _table(path, ("Participant ID", "Video file", "Gloss")):
            stem = Path(cells["Video file"]).stem
            rows.append(ListedClip(stem, stem, cells["Gloss"], split, cells["Participant ID"]))
    return assemble(rows, videos, name="asl-citizen", sources=files, **options)


def from_msasl(lists: Paths, videos: str | Path, *, subset: int | None = None, **options: Any) -> Manifest:
    """Convert MS-ASL: MSASL_train/val/test.json; `<youtube id>.mp4` are whole videos, times are in seconds.

    `subset` keeps the classes below it (MS-ASL100 is subset 100).
    """
    files = _paths(lists)
    rows, names = [], dict[int, str]()
    for path in files:
        split = _split(path.stem.split("_")[-1].split(".")[0], str(path))
        for number, item in enumerate(read_json(path, list)):
            where = f"{path} entry {number}"
            try:
                label, text, url = int(item["label"]), str(item["clean_text"]), str(item["url"])
                start, end, signer = (
                    float(item["start_time"]),
                    float(item["end_time"]),
                    str(item["signer_id"]),
                )
                y0, x0, y1, x1 = item["box"]
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{where}: not of the MS-ASL schema ({error!r})") from error
            video = youtube_id(url)
            if video is None:
                raise UserError(f"{where}: no YouTube id in '{url}'")
            if subset is not None and label >= subset:
                continue
            names.setdefault(label, text)
            clip_id = f"{split}_{number:05d}_{video}"
            box = _box([x0, y0, x1, y1], where)
            rows.append(ListedClip(clip_id, video, names[label], split, signer, start, end, box))
    classes = [names.get(label, str(label)) for label in range(max(names, default=-1) + 1)]
    return assemble(rows, videos, name="msasl", sources=files, classes=classes, **options)


def from_autsl(lists: Paths, videos: str | Path, *, signs: str | Path, **options: Any) -> Manifest:
    """Convert AUTSL: train/validation/test_labels.csv of `signerX_sampleY,class`; `signs` has ClassId, TR, EN."""
    files = _paths(lists)
    names = {int(cells["ClassId"]): cells["TR"] for _, cells in _table(signs, ("ClassId", "TR"))}
    rows = []
    for path in files:
        split = _split(path.stem.split("_")[0], str(path))
        for line in read_text(path).splitlines():
            clip, _, label = line.partition(",")
            if not clip or not label.strip().isdecimal() or int(label) not in names:
                raise UserError(f"{path}: '{line}' is not `signerX_sampleY,class` with a class of {signs}")
            signer = clip.split("_")[0].removeprefix("signer")
            rows.append(ListedClip(clip, f"{clip}_color", names[int(label)], split, signer))
    classes = [names[label] for label in sorted(names)]
    return assemble(rows, videos, name="autsl", sources=[*files, signs], classes=classes, **options)


def from_lsa64(
    videos: str | Path,
    *,
    signs: str | Path | None = None,
    val_signers: Sequence[int] = (9,),
    test_signers: Sequence[int] = (10,),
    **options: Any,
) -> Manifest:
    """Convert LSA64: files `SSS_PPP_RRR.mp4` (sign, person, repetition); split by person, the last two held out.

    `signs` is the published list `01|Opaque|R|`; without it classes are the sign numbers.
    """
    names: dict[int, str] = {}
    if signs is not None:
        names = {int(line.split("|")[0]): line.split("|")[1] for line in read_text(signs).splitlines() if "|" in line}
    rows = []
    for path in find_videos(videos):
        match = re.fullmatch(r"(\d{3})_(\d{3})_(\d{3})", path.stem)
        if match is None:
            raise UserError(f"{path}: LSA64 files are named SSS_PPP_RRR.mp4")
        sign, person = int(match[1]), int(match[2])
        split = "test" if person in test_signers else "val" if person in val_signers else "train"
        rows.append(ListedClip(path.stem, path.stem, names.get(sign, f"{sign:03d}"), split, str(person)))
    sources = [signs] if signs is not None else []
    return assemble(rows, videos, name="lsa64", sources=sources, **options)


def from_slovo(annotations: str | Path, videos: str | Path, **options: Any) -> Manifest:
    """Convert Slovo: annotations.csv with attachment_id, user_id, text, train, begin, end.

    begin and end are frames of the untrimmed file; for a shorter file, which is trimmed already, they are ignored.
    """
    rows = []
    for where, cells in _table(annotations, ("attachment_id", "user_id", "text", "train", "begin", "end")):
        span = (round(_seconds(cells["begin"], where)), round(_seconds(cells["end"], where)))
        split = "train" if cells["train"].lower() in ("true", "1") else "test"
        stem = cells["attachment_id"]
        rows.append(ListedClip(stem, stem, cells["text"], split, cells["user_id"], frame_range=span))
    return assemble(rows, videos, name="slovo", sources=[annotations], **options)


def from_id_list(ids: str | Path, videos: str | Path, *, name: str = "youtube-asl", **options: Any) -> Manifest:
    """Convert a list of video ids, one a line (YouTube-ASL): whole unlabelled videos."""
    listed = [line.strip() for line in read_text(ids).splitlines() if line.strip()]
    if not listed:
        raise UserError(f"{ids}: lists no video ids")
    return assemble([ListedClip(i, i) for i in dict.fromkeys(listed)], videos, name=name, sources=[ids], **options)


PUBLISHED: dict[str, Callable[..., Manifest]] = {
    "openasl": from_openasl,
    "kinetics": from_kinetics,
    "asl-citizen": from_asl_citizen,
    "msasl": from_msasl,
    "autsl": from_autsl,
    "lsa64": from_lsa64,
    "slovo": from_slovo,
    "youtube-asl": from_id_list,
}


def _paths(lists: Paths) -> list[Path]:
    return [Path(lists)] if isinstance(lists, str | Path) else [Path(path) for path in lists]


def _table(path: str | Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, cells) of each row of a csv or tsv that has the required columns."""
    text = read_text(path)
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    absent = [column for column in required if column not in (reader.fieldnames or [])]
    if absent:
        raise UserError(f"{path}: no column '{absent[0]}'; needed are {', '.join(required)}")
    rows = [(reader.line_num, cells) for cells in reader]
    if not rows:
        raise UserError(f"{path}: lists no clips")
    for line, cells in rows:
        where = f"{path} line {line}"
        if any(not isinstance(cells[column], str) for column in required):
            raise UserError(f"{where}: has too few cells")
        yield where, {key: value.strip() for key, value in cells.items() if isinstance(value, str)}


def _tables(paths: Sequence[Path], required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for path in paths:
        yield from _table(path, required)


def _split(text: str, where: str) -> str:
    if text.lower() in ("", "none"):
        return "none"
    if text.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: unknown split '{text}'; known are {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.lower()]


def _seconds(text: str, where: str) -> float:
    """Parse `12.5` or `00:01:02.5` as seconds."""
    try:
        seconds = 0.0
        for part in text.split(":"):
            seconds = 60 * seconds + float(part)
    except ValueError:
        raise UserError(f"{where}: '{text}' is neither seconds nor hours:minutes:seconds") from None
    return seconds


def _box(corners: Any, where: str) -> Box | None:
    if corners is None:
        return None
    try:
        x0, y0, x1, y1 = (float(value) for value in corners)
    except (TypeError, ValueError):
        raise UserError(f"{where}: a box has four numbers, not {corners!r}") from None
    return x0, y0, x1, y1
