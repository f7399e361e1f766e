"""What a corpus really holds: present, missing and broken clips, duplicates, leaks between splits, poses.

Everything is computed from the manifest and its files; nothing is repaired here.
"""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.guard import DecodeError
from islr.data.manifest import CORRUPT, MISSING, OK, SPLITS, Clip, Manifest
from islr.data.packed import PackReader, clip_pose, is_packed, origin_of
from islr.data.pose import BODY, LEFT_HAND, LEFT_SHOULDER, RIGHT_HAND, RIGHT_SHOULDER, normalise
from islr.errors import UserError
from islr.files import file_sha256

_MOST_EXAMPLES = 10
_NOSE = 0
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def audit(manifest: Manifest, *, poses: bool = True, content: bool = True) -> dict[str, Any]:
    """Examine a corpus; the result can be written as json.

    Args:
        manifest: The corpus.
        poses: Read every pose file.
        content: Look for equal files (only files of equal size are read).
    """
    splits = [split for split in SPLITS if any(clip.split == split for clip in manifest)]
    report: dict[str, Any] = {
        "name": manifest.name,
        "clips": len(manifest),
        "present": sum(clip.status == OK for clip in manifest),
        "splits": {split: _split(manifest, split) for split in splits},
        "corrupt_by_kind": dict(Counter(_corrupt_kinds(manifest)).most_common()),
        "corrupt_clips": {clip.clip_id: clip.status for clip in manifest if clip.status.startswith(CORRUPT)},
        "duration_s": {split: _durations(manifest, split) for split in splits},
        "fps": _table(f"{clip.fps:.2f}" for clip in manifest if clip.fps is not None),
        "resolution": _table(f"{clip.width}x{clip.height}" for clip in manifest if clip.width is not None),
        "signers": _signers(manifest, splits),
        "classes": _classes(manifest, splits),
        "notes": {key: value for key, value in manifest.notes.items() if key != "same_origin"},
    }
    if "same_origin" in manifest.notes:
        known = {clip.clip_id: clip for clip in manifest}
        groups = [[known[i] for i in group if i in known] for group in manifest.notes["same_origin"]]
        report["same_origin"] = _duplicates([group for group in groups if len(group) > 1])
    if content:
        report["same_content"] = _duplicates(same_content(manifest))
    if poses and any(clip.pose for clip in manifest):
        report["poses"] = _poses(manifest)
    return report


def same_content(*manifests: Manifest) -> list[list[Clip]]:
    """Groups of present clips that show the very same pictures: equal bytes, and time ranges that overlap.

    A packed clip counts as the file and range it was packed from.
    """
    by_size: dict[int, list[tuple[Path | str, Clip, Clip]]] = defaultdict(list)  # file or hash, in the file, as listed
    for manifest in manifests:
        for clip in manifest:
            path = manifest.path_of(clip)
            if clip.status == OK and is_packed(path):
                origin = origin_of(path)
                by_size[origin.bytes].append(
                    (origin.sha256, dataclasses.replace(clip, start=origin.start, end=origin.end), clip)
                )
            elif clip.status == OK and path.is_file():
                by_size[path.stat().st_size].append((path, clip, clip))
    groups: list[list[Clip]] = []
    for entries in by_size.values():
        if len(entries) < 2:
            continue
        files = {file for file, _, _ in entries}
        hashes = {file: _content(file) if len(files) > 1 else "" for file in files}
        by_hash: dict[str, list[tuple[Clip, Clip]]] = defaultdict(list)
        for file, inside, listed in entries:
            by_hash[hashes[file]].append((inside, listed))
        for pairs in by_hash.values():
            groups += _overlapping(pairs)
    return groups


def _content(file: Path | str) -> str:
    return file if isinstance(file, str) else file_sha256(file)


def shared_clips(selection: Manifest, test: Manifest) -> list[tuple[str, str]]:
    """Pairs (clip id in selection, clip id in test) that are one clip or the same pictures."""
    tested = {clip.clip_id for clip in test}
    pairs = [(clip.clip_id, clip.clip_id) for clip in selection if clip.clip_id in tested]
    mine, theirs = {clip.clip_id for clip in selection} - tested, tested
    for group in same_content(selection, test):
        names = [clip.clip_id for clip in group]
        pairs += itertools.product([n for n in names if n in mine], [n for n in names if n in theirs])
    return sorted(set(pairs))


def check_disjoint(selection: Manifest, test: Manifest) -> None:
    """Refuse a selection set that has a clip of the test set, by its id or by its pictures.

    Raises:
        UserError: It does; the message names the pairs.
    """
    pairs = shared_clips(selection, test)
    if pairs:
        shown = ", ".join(f"{a} = {b}" for a, b in pairs[:_MOST_EXAMPLES])
        more = f" and {len(pairs) - _MOST_EXAMPLES} more" if len(pairs) > _MOST_EXAMPLES else ""
        raise UserError(f"selection and test share {len(pairs)} clips ({shown}{more}); select on other clips")


def without_shared(selection: Manifest, test: Manifest) -> tuple[Manifest, list[str]]:
    """The selection set without the clips that the test set also has, and their ids."""
    dropped = {mine for mine, _ in shared_clips(selection, test)}
    return selection.replace(clip for clip in selection if clip.clip_id not in dropped), sorted(dropped)


def _overlapping(pairs: Sequence[tuple[Clip, Clip]]) -> list[list[Clip]]:
    """Clips of one file, as (range in the file, row), cut into groups of rows whose time ranges overlap."""
    if len(pairs) < 2:
        return []
    ordered = sorted(pairs, key=lambda pair: (pair[0].start or 0.0, pair[0].clip_id))
    groups: list[list[Clip]] = []
    reach = -np.inf
    for inside, listed in ordered:
        if groups and (inside.start or 0.0) < reach:
            groups[-1].append(listed)
        else:
            groups.append([listed])
            reach = -np.inf
        reach = max(reach, inside.end if inside.end is not None else np.inf)
    return [group for group in groups if len(group) > 1]


def _split(manifest: Manifest, split: str) -> dict[str, Any]:
    clips = [clip for clip in manifest if clip.split == split]
    present = [clip for clip in clips if clip.status == OK]
    return {
        "expected": len(clips),
        "present": len(present),
        "missing": sum(clip.status == MISSING for clip in clips),
        "corrupt": sum(clip.status.startswith(CORRUPT) for clip in clips),
        "classes": len({clip.label for clip in clips if clip.label is not None}),
        "classes_present": len({clip.label for clip in present if clip.label is not None}),
        "signers": len({clip.signer for clip in clips if clip.signer}),
        "fingerprint": manifest.fingerprint(split),
    }


def _corrupt_kinds(manifest: Manifest) -> list[str]:
    return [clip.status.removeprefix(CORRUPT) for clip in manifest if clip.status.startswith(CORRUPT)]


def _durations(manifest: Manifest, split: str) -> dict[str, float]:
    seconds = [c.frames / c.fps for c in manifest if c.split == split and c.frames and c.fps]
    if not seconds:
        return {}
    values = np.percentile(seconds, _PERCENTILES)
    named = {f"p{p}": round(float(value), 3) for p, value in zip(_PERCENTILES, values, strict=True)}
    return {**named, "total_hours": round(sum(seconds) / 3600, 3)}


def _table(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _signers(manifest: Manifest, splits: Sequence[str]) -> dict[str, Any]:
    of = {split: {clip.signer for clip in manifest if clip.split == split and clip.signer} for split in splits}
    overlap = {}
    for a, b in itertools.combinations([split for split in splits if split != "none"], 2):
        shared = of[a] & of[b]
        overlap[f"{a}/{b}"] = {
            "signers": len(shared),
            f"{b}_clips_of_signers_in_{a}": sum(clip.split == b and clip.signer in of[a] for clip in manifest),
        }
    return {"all": len(set().union(*of.values())), "overlap": overlap}


def _classes(manifest: Manifest, splits: Sequence[str]) -> dict[str, Any]:
    """Classes that a split lacks, as listed and as present on this machine."""
    report: dict[str, Any] = {"all": len(manifest.classes)}
    for split in splits:
        if split == "none" or not manifest.classes:
            continue
        clips = [clip for clip in manifest if clip.split == split and clip.label is not None]
        listed = {clip.label for clip in clips}
        present = {clip.label for clip in clips if clip.status == OK}
        report[f"without_{split}_clips"] = [n for i, n in enumerate(manifest.classes) if i not in listed]
        report[f"without_present_{split}_clips"] = len(manifest.classes) - len(present)
    return report


def _duplicates(groups: Sequence[Sequence[Clip]]) -> dict[str, Any]:
    """Numbers about groups of clips that are the same recording."""
    across_splits = [group for group in groups if len({clip.split for clip in group}) > 1]
    across_labels = [group for group in groups if len({clip.gloss or clip.label for clip in group}) > 1]
    leaks: Counter[str] = Counter()
    for group in groups:
        for clip in group:
            if clip.split != "test":
                continue
            twins = {other.gloss or other.label for other in group if other.split == "train"}
            if twins - {clip.gloss or clip.label}:
                leaks["test_clips_in_train_with_another_label"] += 1
            if clip.gloss in twins or (not clip.gloss and clip.label in twins):
                leaks["test_clips_in_train_with_the_same_label"] += 1
    return {
        "groups": len(groups),
        "clips": sum(map(len, groups)),
        "groups_across_splits": len(across_splits),
        "groups_across_labels": len(across_labels),
        "test_clips_in_train_with_another_label": leaks["test_clips_in_train_with_another_label"],
        "test_clips_in_train_with_the_same_label": leaks["test_clips_in_train_with_the_same_label"],
        "examples": [
            [f"{clip.clip_id} ({clip.split}, {clip.gloss or clip.label})" for clip in group]
            for group in sorted(groups, key=lambda group: len({clip.split for clip in group}) < 2)[:_MOST_EXAMPLES]
        ],
    }


def _poses(manifest: Manifest) -> dict[str, Any]:
    clips = [clip for clip in manifest if clip.status == OK]
    unreadable, lengths, upside_down = [], [], []
    scales: Counter[str] = Counter()
    seen: dict[str, list[float]] = {"left": [], "right": [], "either": []}
    packs = PackReader(manifest.root)
    for clip in clips:
        if not clip.pose:
            continue
        try:
            pose = clip_pose(manifest, clip, packs)
        except DecodeError:
            unreadable.append(clip.clip_id)
            continue
        scales[normalise(pose)[1]] += 1
        if clip.frames is not None and len(pose.keypoints) != clip.frames:
            lengths.append(f"{clip.clip_id}: {len(pose.keypoints)} poses, {clip.frames} frames")
        left, right = ((pose.confidences[:, hand] > 0).any(axis=1) for hand in (LEFT_HAND, RIGHT_HAND))
        for name, frames in (("left", left), ("right", right), ("either", left | right)):
            seen[name].append(float(frames.mean()))
        body, sure = pose.keypoints[:, BODY, 1], pose.confidences[:, BODY] > 0
        known = sure[:, _NOSE] & sure[:, LEFT_SHOULDER] & sure[:, RIGHT_SHOULDER]
        shoulders = body[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=1)
        if known.any() and float(np.median((shoulders - body[:, _NOSE])[known])) < 0:
            upside_down.append(clip.clip_id)
    return {
        "clips": len(clips),
        "with_pose": sum(bool(clip.pose) for clip in clips),
        "unreadable": unreadable,
        "other_length_than_video": len(lengths),
        "other_length_examples": lengths[:_MOST_EXAMPLES],
        "nose_below_shoulders": upside_down,
        "scaled_by": dict(scales),
        "share_of_frames_with_hand": {name: round(float(np.mean(v)), 4) for name, v in seen.items() if v},
        "clips_where_never_seen": {name: sum(share == 0 for share in v) for name, v in seen.items()},
    }


def render_audit(report: dict[str, Any]) -> str:
    """The audit as text for people."""
    lines = [f"{report['name']}: {report['present']} of {report['clips']} clips present", ""]
    columns = ("expected", "present", "missing", "corrupt", "classes", "classes_present", "signers")
    lines.append(f"{'split':<8}" + "".join(f"{name:>17}" for name in columns) + "   median s  fingerprint")
    for split, row in report["splits"].items():
        median = report["duration_s"][split].get("p50", float("nan"))
        cells = "".join(f"{row[name]:>17}" for name in columns)
        lines.append(f"{split:<8}{cells}{median:>11.2f}  {row['fingerprint'][:12]}")
    lines.append("")
    if report["corrupt_by_kind"]:
        lines.append("broken files: " + _pairs(report["corrupt_by_kind"]))
    for what in ("fps", "resolution"):
        if report[what]:
            lines.append(f"{what}: " + _pairs(report[what]))
    for pair, row in report["signers"]["overlap"].items():
        lines.append(f"signers in {pair}: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in row.items()))
    for key, value in report["classes"].items():
        if isinstance(value, list) and value:
            lines.append(f"classes {key.replace('_', ' ')}: {_short(value)}")
    for key, title in (("same_origin", "the same recording by its origin"), ("same_content", "equal files")):
        row = report.get(key)
        if row is None:
            continue
        lines.append(
            f"{title}: {row['groups']} groups of {row['clips']} clips;"
            f" {row['groups_across_splits']} across splits, {row['groups_across_labels']} across labels;"
            f" test clips that are in train under another label"
            f" {row['test_clips_in_train_with_another_label']},"
            f" under the same {row['test_clips_in_train_with_the_same_label']}"
        )
        lines += [f"  {' = '.join(group)}" for group in row["examples"][:3]]
    if "poses" in report:
        row = report["poses"]
        hands = ", ".join(f"{name} {share:.0%}" for name, share in row["share_of_frames_with_hand"].items())
        never = ", ".join(f"{name} {count}" for name, count in row["clips_where_never_seen"].items())
        lines.append(
            f"poses: {row['with_pose']} of {row['clips']} clips; hand seen in {hands} of frames;"
            f" never seen: {never} clips; {row['other_length_than_video']} of another length than the video;"
            f" {len(row['unreadable'])} unreadable;"
            f" nose below shoulders in {len(row['nose_below_shoulders'])}"
        )
    for key, value in report["notes"].items():
        lines.append(f"note: {key.replace('_', ' ')}: {_short(value)}")
    return "\n".join(lines)


def _pairs(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:_MOST_EXAMPLES]]
    rest = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    shown = ", ".join(map(str, value[:_MOST_EXAMPLES])) + (", ..." if len(value) > _MOST_EXAMPLES else "")
    return f"{len(value)} ({shown})" if value else "0"
