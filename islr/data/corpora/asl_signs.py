"""The converter of asl-signs, a corpus of landmarks without videos: its list and the poses converted from its files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from islr.data.corpora.layout import corpus_folders, data_root, pose_programs, read_json
from islr.data.corpora.rows import ListedClip, Listing, list_splits, whole
from islr.data.corpora.tables import read_lines
from islr.data.manifest import CORRUPT, MISSING, OK, Clip, Manifest
from islr.data.poses.pose import read_pose
from islr.data.video.guard import DecodeError, check_path
from islr.data.video.scan import Progress
from islr.errors import UserError
from islr.files import file_sha256, walk

_HELD_OUT = 7  # one participant of seven is tested, another selected on; at least one of each


def from_asl_signs(
    csv: str | Path,
    poses: str | Path,
    *,
    classes: str | Path | None = None,
    split_lists: Sequence[str | Path] | None = None,
    val_signers: Sequence[str] | None = None,
    test_signers: Sequence[str] | None = None,
    mixed_poses: bool = False,
    root: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make the manifest of asl-signs. Its clips are poses alone: the path of each is its pose.

    Args:
        csv: train.csv of path, participant_id, sequence_id, sign.
        poses: A folder that holds, at any depth, `<sequence_id>.npz`, as `islr data poses convert` makes them.
        classes: sign_to_prediction_index_map.json; None = the signs, sorted.
        split_lists: Files of sequence ids, one a line, named by their split (train.txt, ...), such as the published
            random split; a clip in none of them has no split. None = participants are held out.
        val_signers, test_signers: Participants held out; None = the last of them in numeric order.
        mixed_poses: Accept poses that several programs made.
        root: The data root; None = the folder of poses.
        out: The path that the manifest will be saved to; as nothing is decoded, no cache of a scan lies beside it.
        progress: Called with (poses read, poses in all).

    Raises:
        UserError: A file is missing or of another kind, or no pose belongs to the list.
    """
    listing, signs = Listing(), dict[str, str]()
    for where, cells in listing.table(csv, ("participant_id", "sequence_id", "sign")):
        with listing.row(where):
            name = str(whole(cells["sequence_id"], "sequence_id"))
            listing.add(where, ListedClip(name, name, cells["sign"], signer=cells["participant_id"]))
            signs[name] = cells["sign"]
    listing.check("asl-signs")
    folder = corpus_folders(poses, poses)[0]
    base = data_root((folder,), root)
    names = _class_names(classes, listing.rows)
    if split_lists is None:
        split_of = _by_participant(listing.rows, val_signers, test_signers)
    elif val_signers or test_signers:
        raise UserError(
            "--split-list says the split of every clip, --val-signer and --test-signer too; give one of the two"
        )
    else:
        split_of = _by_list([Path(path) for path in split_lists])
    files = {name[:-4]: parent / name for parent, _, found in walk(folder) for name in found if name.endswith(".npz")}
    if not files.keys() & signs.keys():
        raise UserError(f"{poses}: no pose belongs to the list; names look like '{listing.rows[0].stem}.npz'")
    index = {sign: label for label, sign in enumerate(names)}
    clips = []
    for number, row in enumerate(listing.rows, start=1):
        path = files.get(row.stem, folder / f"{row.stem}.npz")
        place = path.relative_to(base).as_posix()
        clip = Clip(
            row.clip_id,
            place,
            row.gloss,
            label=index.get(row.gloss),
            split=split_of.get(row.clip_id, "none"),
            signer=row.signer,
            source="asl-signs",
            pose=place,
            **(_measured(path, base) if row.stem in files else {"status": MISSING}),
        )
        clips.append(clip)
        if progress is not None:
            progress(number, len(listing.rows))
    present = [clip.pose for clip in clips if clip.status == OK]
    notes = listing.notes() | pose_programs(present, base, mixed_poses) | {"clips_without_videos": len(clips)}
    given = [csv, *([classes] if classes is not None else []), *(split_lists or [])]
    hashes = {Path(path).name: file_sha256(path) for path in given}
    return Manifest("asl-signs", tuple(clips), base, tuple(names), hashes, notes)


def _measured(path: Path, base: Path) -> dict[str, Any]:
    """Return the columns that a pose file tells."""
    try:
        pose = read_pose(check_path(path, base))
    except (UserError, DecodeError):
        return {"status": CORRUPT + "pose"}
    if not pose.has_points:
        return {"status": CORRUPT + "pose"}
    return {"frames": len(pose), "fps": round(pose.fps, 4), "width": pose.width, "height": pose.height}


def _class_names(path: str | Path | None, rows: Iterable[ListedClip]) -> list[str]:
    used = {row.gloss for row in rows}
    if path is None:
        return sorted(used)
    index = read_json(path, dict)
    if sorted(index.values(), key=str) != sorted(range(len(index)), key=str):
        raise UserError(f"{path}: does not number its {len(index)} signs from 0")
    if lost := sorted(used - index.keys()):
        raise UserError(f"{path}: does not number the sign '{lost[0]}'")
    return sorted(index, key=lambda sign: int(index[sign]))


def _by_participant(
    rows: Sequence[ListedClip], val: Sequence[str] | None, test: Sequence[str] | None
) -> dict[str, str]:
    """Return the split of each clip, so that no participant is in two."""
    people = sorted({row.signer for row in rows}, key=lambda signer: (len(signer), signer))
    if unknown := sorted({*(val or ()), *(test or ())} - set(people)):
        raise UserError(f"participant '{unknown[0]}' is not in the list; it has {', '.join(people[:5])}, ...")
    held = max(1, len(people) // _HELD_OUT)
    tested = set(people[-held:] if test is None else test)
    chosen = set([person for person in people if person not in tested][-held:] if val is None else val)
    return {row.clip_id: _part(row.signer, chosen, tested) for row in rows}


def _part(signer: str, val: set[str], test: set[str]) -> str:
    return "test" if signer in test else "val" if signer in val else "train"


def _by_list(paths: Sequence[Path]) -> dict[str, str]:
    """Return the split of each sequence id in the lists."""
    split_of: dict[str, str] = {}
    for path, split in zip(paths, list_splits(paths, [path.stem for path in paths], None), strict=True):
        for line in read_lines(path):
            name = line.strip()
            if name and split_of.setdefault(name, split) != split:
                raise UserError(f"{path}: sequence {name} is in {split_of[name]} too")
    return split_of
