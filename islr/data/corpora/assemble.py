"""The manifest of a list's clips and the videos below a folder: files are found by name, measured, and matched."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from islr.data.corpora.layout import check_links, corpus_folders, data_root, pose_path, pose_programs
from islr.data.corpora.rows import ListedClip, Listing, shown
from islr.data.manifest import CORRUPT, MISSING, OK, Clip, Manifest
from islr.data.video.scan import Progress, Range, ScanJob, Scanned, cache_beside, find_videos, scan
from islr.errors import UserError
from islr.files import file_sha256


def assemble(
    listing: Listing,
    videos: str | Path,
    *,
    name: str,
    sources: Iterable[str | Path],
    classes: Sequence[str] | None = None,
    poses: str | Path | None = None,
    mixed_poses: bool = False,
    root: str | Path | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    notes: dict[str, Any] | None = None,
) -> Manifest:
    """Make a manifest of a list's clips and the videos below a folder.

    Args:
        listing: The clips, and the rows that cannot be clips.
        videos: The folder; files are found at any depth by their stem.
        name: The corpus's name.
        sources: The list files, whose hashes the manifest keeps.
        classes: Class names in the published order; None = the rows' glosses, sorted.
        poses: A folder of `<clip id>.npz`.
        mixed_poses: Accept poses that several programs made.
        root: The data root; None = the folder that holds videos and poses.
        workers, progress: See `islr.data.video.scan.scan`.
        out: The path that the manifest will be saved to; the scan's cache lies beside it.
        notes: What the converter counted.

    Raises:
        UserError: No row can be a clip, a folder is missing, no video belongs to the list, or all are links that lead
            out of the data root.
    """
    listing.check(name)
    rows = listing.rows
    folder, pose_folder = corpus_folders(videos, poses)
    base = data_root((folder, pose_folder), root)
    jobs, unused = _scan_jobs(rows, find_videos(folder))
    if not jobs:
        rest = f"; {len(listing.left_out)} rows were left out, as {listing.left_out[0]}" if listing.left_out else ""
        raise UserError(f"{videos}: no video belongs to the list; names look like '{shown(rows[0].stem)}.mp4'{rest}")
    pose_of = {row.clip_id: pose_path(pose_folder, row.clip_id, base) for row in rows}
    notes = listing.notes() | unused | (notes or {})
    notes |= check_links([job.path for job in jobs], base) | pose_programs(pose_of.values(), base, mixed_poses)
    results = scan(jobs, base, workers=workers, cache=cache_beside(out), progress=progress)
    scanned = {_name(job.path): (job, result) for job, result in zip(jobs, results, strict=True)}
    names = [unicodedata.normalize("NFC", gloss) for gloss in classes or ()]
    names = names if classes is not None else sorted({row.gloss for row in rows if row.gloss})
    index = {gloss: label for label, gloss in enumerate(names)}
    clips = []
    for row in rows:
        absent = (ScanJob(folder / f"{row.stem}.mp4"), Scanned(MISSING))
        job, result = scanned.get(unicodedata.normalize("NFC", row.stem), absent)
        clips.append(
            Clip(
                clip_id=row.clip_id,
                path=job.path.relative_to(base).as_posix(),
                gloss=row.gloss,
                label=index.get(row.gloss),
                split=row.split,
                signer=row.signer,
                source=name,
                pose=pose_of[row.clip_id],
                code=row.code,
                **_measured(row, job, result),
            )
        )
    hashes = {Path(source).name: file_sha256(source) for source in sources}
    return Manifest(name, tuple(clips), base, tuple(names), hashes, notes)


def _name(path: Path) -> str:
    """Return a file's stem in composed letters; some file systems decompose them."""
    return unicodedata.normalize("NFC", path.stem)


def _scan_jobs(rows: Sequence[ListedClip], found: Sequence[Path]) -> tuple[list[ScanJob], dict[str, Any]]:
    """Return the files that rows name, each with the ranges that are clips of it, and a note of other files' names."""
    stems = {unicodedata.normalize("NFC", row.stem) for row in rows}
    files: dict[str, Path] = {}
    twins = []
    for path in found:
        if _name(path) in stems and files.setdefault(_name(path), path) != path:
            twins.append(shown(f"{path} (used: {files[_name(path)]})"))
    ranges: dict[str, dict[Range, None]] = {}
    for row in rows:
        if row.start is not None or row.end is not None:
            ranges.setdefault(unicodedata.normalize("NFC", row.stem), {})[row.start, row.end] = None
    jobs = [ScanJob(path, tuple(ranges.get(stem, {}))) for stem, path in files.items()]
    return jobs, {"videos_of_a_name_already_used": twins} if twins else {}


def _measured(row: ListedClip, job: ScanJob, result: Scanned) -> dict[str, Any]:
    """Return the columns of a clip that are measured by decoding its file."""
    start, end = row.start, row.end
    if result.status != OK:
        return {"status": result.status, "start": start, "end": end}
    place: tuple[int, int] | None = None  # first frame in the file, and number of frames
    if row.frame_range is not None:
        first, last = row.frame_range
        if last <= result.frames and (first, last) != (0, result.frames):
            place = (first, last - first)
            # Half a frame early: the range must hold its first frame whatever the file's clock rounds to.
            start, end = max(0.0, first - 0.5) / result.fps, (last - 0.5) / result.fps
    elif (start, end) != (None, None):
        at = job.ranges.index((start, end))
        place = (result.firsts[at], result.counts[at])
    box = None
    if row.box is not None:
        x0, x1 = (round(min(max(x, 0.0), 1.0) * result.width, 1) for x in (row.box[0], row.box[2]))
        y0, y1 = (round(min(max(y, 0.0), 1.0) * result.height, 1) for y in (row.box[1], row.box[3]))
        box = (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
    frames = result.frames if place is None else place[1]
    return {
        "status": OK if frames else CORRUPT + "no frames",
        "start": start,
        "end": end,
        "box": box,
        "frames": frames,
        "fps": round(result.fps, 4) or None,
        "width": result.width,
        "height": result.height,
        "first_frame": None if place is None else place[0],
        "file_frames": None if place is None else result.frames,
    }
