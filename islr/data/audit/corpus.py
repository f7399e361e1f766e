"""The audit of a corpus: present, missing and broken clips, duplicates, leaks between splits, poses.

The audit reads the manifest and its files and changes neither.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.audit.duplicates import same_content
from islr.data.audit.poses import pose_audit
from islr.data.labels import FormTable, label_ceiling
from islr.data.manifest import CORRUPT, MISSING, OK, SPLITS, Clip, Manifest
from islr.data.packs.format import is_packed, locate

_MOST_EXAMPLES = 10
_NOSE = 0
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def audit(manifest: Manifest, *, poses: bool = True, content: bool = True) -> dict[str, Any]:
    """Audit a corpus; the result can be written as json.

    Args:
        manifest: The corpus.
        poses: Read every pose file.
        content: Search for equal files (only files of equal size are read).
    """
    manifest, gone = _without_lost_files(manifest)
    splits = [split for split in SPLITS if any(clip.split == split for clip in manifest)]
    report: dict[str, Any] = {
        "name": manifest.name,
        "clips": len(manifest),
        "present": sum(clip.status == OK for clip in manifest),
        "splits": {split: _split(manifest, split) for split in splits},
        "files_gone": gone,
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
        report["same_origin"] = _duplicates(manifest, [group for group in groups if len(group) > 1])
    if content:
        report["same_content"] = _duplicates(manifest, same_content(manifest))
    forms = _forms(manifest, splits)
    if forms:
        report["forms"] = forms
    if poses and any(clip.pose for clip in manifest):
        report["poses"] = pose_audit(manifest)
    return report


def _without_lost_files(manifest: Manifest) -> tuple[Manifest, list[str]]:
    """Return the manifest as its files are now, and the clips whose file has gone since it was made."""
    files = {clip.path for clip in manifest if clip.status == OK}
    lost = {
        path for path in files if not (manifest.root / (locate(Path(path))[0] if is_packed(path) else path)).is_file()
    }
    gone = [clip.clip_id for clip in manifest if clip.status == OK and clip.path in lost]
    if gone:
        lose = set(gone)
        manifest = manifest.replace(
            replace(clip, status=MISSING) if clip.clip_id in lose else clip for clip in manifest
        )
    return manifest, gone


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
    """Return the classes without clips in each split, as listed and as present on this machine."""
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


def _label(manifest: Manifest, clip: Clip) -> str:
    return manifest.classes[clip.label] if clip.label is not None and manifest.classes else clip.gloss


def _duplicates(manifest: Manifest, groups: Sequence[Sequence[Clip]]) -> dict[str, Any]:
    """Count leaks and label noise in groups of clips that are one recording."""
    labels = [sorted({_label(manifest, clip) for clip in group}) for group in groups]
    leaks: Counter[str] = Counter()
    for group in groups:
        for clip in group:
            if clip.split != "test":
                continue
            twins = {_label(manifest, other) for other in group if other.split == "train"}
            leaks["another"] += bool(twins - {_label(manifest, clip)})
            leaks["same"] += _label(manifest, clip) in twins
    noise = Counter(" / ".join(names) for names in labels if len(names) > 1)
    return {
        "groups": len(groups),
        "clips": sum(map(len, groups)),
        "groups_across_splits": sum(len({clip.split for clip in group}) > 1 for group in groups),
        "groups_across_labels": noise.total(),
        "label_sets": len(noise),
        "most_frequent_label_sets": dict(noise.most_common(_MOST_EXAMPLES)),
        "test_clips_in_train_with_another_label": leaks["another"],
        "test_clips_in_train_with_the_same_label": leaks["same"],
        "examples": [
            [f"{clip.clip_id} ({clip.split}, {_label(manifest, clip)})" for clip in group]
            for group in sorted(groups, key=lambda group: len({clip.split for clip in group}) < 2)[:_MOST_EXAMPLES]
        ],
    }


def _forms(manifest: Manifest, splits: Sequence[str]) -> dict[str, Any]:
    """Compare labels and sign forms; empty if the manifest has no forms, or each label has one form of its own."""
    if not any(clip.split == "train" and clip.form and clip.label is not None for clip in manifest):
        return {}
    table = FormTable.count(manifest)
    if table.is_trivial:
        return {}
    used = table.counts > 0
    scored = [split for split in splits if split in ("val", "test")]
    scored = [split for split in scored if any(clip.split == split and clip.form for clip in manifest)]
    return {
        "forms": len(table.forms),
        "clips_with_form": {split: sum(c.split == split and bool(c.form) for c in manifest) for split in splits},
        "train_forms_with_several_labels": int((used.sum(axis=0) > 1).sum()),
        "train_labels_with_several_forms": int((used.sum(axis=1) > 1).sum()),
        "label_ceiling": {split: label_ceiling(manifest, table, split) for split in scored},
    }


def render_audit(report: dict[str, Any]) -> str:
    """Render the audit as text."""
    lines = [f"{report['name']}: {report['present']} of {report['clips']} clips present", ""]
    lines += [*_render_splits(report), ""]
    if report["files_gone"]:
        lines.append(f"files gone since the manifest was made: {_short(report['files_gone'])}")
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
        if key in report:
            lines += _render_duplicates(title, report[key])
    if "forms" in report:
        lines += _render_forms(report["forms"])
    if "poses" in report:
        lines.append(_render_poses(report["poses"]))
    for key, value in report["notes"].items():
        lines.append(f"note: {key.replace('_', ' ')}: {_short(value)}")
    return "\n".join(lines)


def _render_splits(report: dict[str, Any]) -> list[str]:
    columns = ("expected", "present", "missing", "corrupt", "classes", "classes_present", "signers")
    lines = [f"{'split':<8}" + "".join(f"{name:>17}" for name in columns) + "   median s  fingerprint"]
    for split, row in report["splits"].items():
        median = report["duration_s"][split].get("p50", float("nan"))
        cells = "".join(f"{row[name]:>17}" for name in columns)
        lines.append(f"{split:<8}{cells}{median:>11.2f}  {row['fingerprint'][:12]}")
    return lines


def _render_duplicates(title: str, row: dict[str, Any]) -> list[str]:
    lines = [
        f"{title}: {row['groups']} groups of {row['clips']} clips;"
        f" {row['groups_across_splits']} across splits, {row['groups_across_labels']} across labels;"
        f" test clips that are in train under another label"
        f" {row['test_clips_in_train_with_another_label']},"
        f" under the same {row['test_clips_in_train_with_the_same_label']}"
    ]
    if row["label_sets"]:
        lines.append(
            f"  {row['label_sets']} sets of labels of one recording: " + _pairs(row["most_frequent_label_sets"])
        )
    return lines + [f"  {' = '.join(group)}" for group in row["examples"][:3]]


def _render_poses(row: dict[str, Any]) -> str:
    hands = ", ".join(f"{name} {share:.0%}" for name, share in row["share_of_frames_with_hand"].items())
    never = ", ".join(f"{name} {count}" for name, count in row["clips_where_never_seen"].items())
    return (
        f"poses: {row['with_pose']} of {row['clips']} clips; hand seen in {hands} of frames;"
        f" never seen: {never} clips; {row['other_length_than_video']} of another length than the video;"
        f" {len(row['unreadable'])} unreadable;"
        f" nose below shoulders in {len(row['nose_below_shoulders'])}"
    )


def _render_forms(forms: dict[str, Any]) -> list[str]:
    named = ", ".join(f"{split} {count}" for split, count in forms["clips_with_form"].items())
    many = (forms["train_forms_with_several_labels"], forms["train_labels_with_several_forms"])
    lines = [
        f"sign forms: {forms['forms']} named on clips of {named};"
        f" in train {many[0]} forms have several labels and {many[1]} labels have several forms"
    ]
    for split, ceiling in forms["label_ceiling"].items():
        reached = []
        for k in (1, 5):
            value, other = 100 * ceiling[f"top{k}"], 100 * ceiling[f"top{k}_other_ties"]
            ties = f" ({other:.2f} with ties the other way)" if f"{value:.2f}" != f"{other:.2f}" else ""
            reached.append(f"top-{k} {value:.2f} %{ties}")
        lines.append(
            f"label ceiling, {split}: a perfect recogniser of form reaches {', '.join(reached)}"
            f" on the {ceiling['n']} of {ceiling['of']} clips that have a form"
        )
    return lines


def _pairs(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:_MOST_EXAMPLES]]
    rest = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    shown = ", ".join(map(str, value[:_MOST_EXAMPLES])) + (", ..." if len(value) > _MOST_EXAMPLES else "")
    return f"{len(value)} ({shown})" if value else "0"
