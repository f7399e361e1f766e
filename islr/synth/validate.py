"""Baselines and simple probes of a rendered corpus of isolated signs: do its poses and pixels encode the signs?

    python -m islr.synth.validate CORPUS

Baselines: each clip is named after the nearest clip of other signers, by exact poses and by pixels; signers are
divided into folds.
Probes: every phonological feature of unseen signs, predicted from the exact poses by the nearest
neighbour and by a linear classifier. Folds keep signs together that have the same form. Balanced accuracy, over
levels that at least as many signs carry as there are folds; chance is 1 / levels.

These are checks of the corpus. The suite's own probes, with their controls and intervals, are `islr probe`.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from islr.data.manifest import Manifest
from islr.data.poses.pose import normalise, read_pose
from islr.data.video.decode import decode
from islr.errors import UserError
from islr.synth.kinds.isolated import LEXICON
from islr.synth.kinematics.body import unit
from islr.synth.lexicon import COLUMNS, PHONOLOGY, read_lexicon

FOLDS = 5
_TIMES = 12  # moments of a clip that are compared
_SIDE = 24  # pixels of a compared picture
_BODY = (0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)  # face, shoulders, elbows, wrists
_HANDS = (slice(54, 75), slice(33, 54))  # right, left
_TIPS = (4, 8, 12, 16, 20)
_TOUCHING = [*_TIPS, 6, 10]  # the joints of a hand that touch
_CHEST_DEPTH = 0.27  # shoulder widths from the shoulders' line to the skin of the chest
_ALONG = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)  # shares of a forearm at which it may be touched
_WAVES = 7  # lowest frequencies of a hand's path: how often something is repeated
_MOMENTS = 5  # moments at which handshapes are compared
_KEPT = 8 + 8 + _WAVES  # touch and kind of path, the last numbers of a clip's vector: no PCA loses them
NEAREST = -_KEPT + 3  # place in a clip's vector of how near the hand comes to anything, in shoulder widths
_COMPONENTS = 120  # of the poses, before probing
_SWAPPED_BODY = (0, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


@dataclass(frozen=True)
class Reading:
    """Balanced accuracy of a feature of unseen signs."""

    feature: str
    levels: int
    signs: int
    chance: float
    neighbour: float
    linear: float


def pose_features(manifest: Manifest) -> np.ndarray:
    """Return poses as vectors [clips, D]: place, shape and motion of the hands, the busier hand first."""
    return np.stack([_pose_vector(path) for path in _poses(manifest)])


def _poses(manifest: Manifest) -> list[Path]:
    paths = [manifest.pose_of(clip) for clip in manifest]
    poses = [path for path in paths if path is not None]
    if len(poses) < len(paths):
        raise UserError(f"{manifest.name}: {len(paths) - len(poses)} clips have no pose")
    return poses


def _pose_vector(path: Path) -> np.ndarray:
    pose = read_pose(path)
    points, _ = normalise(pose)
    scale = pose.keypoints[:, 11, 0] - pose.keypoints[:, 12, 0]  # z is on the scale of x: shoulder widths, as x and y
    z = pose.keypoints[:, :, 2] / max(float(scale.mean()), 1e-6)
    xyz = np.concatenate([points[:, :, :2], z[:, :, None]], axis=2)
    for part, wrist in zip(_HANDS, (16, 15), strict=True):
        xyz[:, part, 2] += xyz[:, [wrist], 2]  # a hand's z is relative to its wrist, which is a body point too
    hands = [xyz[:, part] for part in _HANDS]
    travel = [float(np.abs(np.diff(hand[:, 0, :2], axis=0)).sum()) for hand in hands]
    body = xyz[:, _BODY]
    dominant = int(travel[1] > travel[0])
    if dominant:  # a left-handed signer, seen in the mirror
        hands = [hand * [-1, 1, 1] for hand in hands[::-1]]
        body = xyz[:, _SWAPPED_BODY] * [-1, 1, 1]
    when = np.linspace(0, len(xyz) - 1, _TIMES).round().astype(int)
    looks = when[np.linspace(0.25 * _TIMES, 0.75 * _TIMES, _MOMENTS).astype(int)]
    middle = np.linspace(0.3 * len(xyz), 0.72 * len(xyz), _TIMES).round().astype(int)  # the stroke, roughly
    parts = [body[when, :, :2].ravel()]
    for hand, left in zip(hands, (False, True), strict=True):
        shape, axes = _own_frame(hand, left)
        opening = np.linalg.norm(shape[:, _TIPS], axis=-1)  # [T, 5]
        gaps = np.linalg.norm(np.diff(shape[:, _TIPS], axis=1), axis=-1)  # [T, 4]
        parts += [axes[when].ravel(), shape[looks].ravel(), opening[when].ravel(), gaps[when].ravel()]
        parts += [opening.std(axis=0), shape.std(axis=0).ravel(), hand[when, 0].ravel()]
        parts += [hand[:, 0].min(axis=0), hand[:, 0].max(axis=0)]
        near = np.linalg.norm(hand[:, _TOUCHING, None] - body[:, None], axis=-1)  # to face, shoulders, arms
        parts.append(near[middle].min(axis=(0, 1)))
    apart = np.linalg.norm(hands[0][:, :, None] - hands[1][:, None], axis=-1).min(axis=(1, 2))
    parts += [apart[when], np.array([apart.min(), apart.mean()])]
    active = np.linspace(0.26 * len(xyz), 0.76 * len(xyz), 2 * _TIMES).round().astype(int)  # touches are brief
    (wrist_course, wrist_kind), (course, kind) = (_path(hands[0][middle, joint]) for joint in (0, 9))
    parts += [wrist_course, wrist_kind, course, _touch(xyz, dominant, active), kind]
    return np.concatenate(parts)


def _own_frame(hand: np.ndarray, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the shape of a hand [T, 21, 3] whatever way it is turned, in palm lengths, and its axes [T, 3, 3]: to the
    thumb side, along the middle finger, out of the palm.
    """
    joints = hand - hand[:, :1]
    along = unit(joints[:, 9])
    across = joints[:, 5] - joints[:, 17]
    across = unit(across - np.sum(across * along, axis=1, keepdims=True) * along)
    palm = np.cross(across, along)
    axes = np.stack([across, along, -palm if left else palm], axis=1)
    length = max(float(np.linalg.norm(joints[:, 9], axis=-1).mean()), 1e-6)
    return joints @ axes.transpose(0, 2, 1) / length, axes


def _touch(points: np.ndarray, dominant: int, stroke: np.ndarray) -> np.ndarray:
    """Return how near the busier hand (0 right, 1 left) comes in the stroke to face, chest, the other hand and arm,
    and to the nearest of them, from points [T, 75, 3] in shoulder widths: distances and their logarithms.
    """
    points = _upright(points[stroke])
    hand, other = (points[:, _HANDS[side]] for side in (dominant, 1 - dominant))
    eyes, mouth = points[:, [2, 5]].mean(axis=1), points[:, [9, 10]].mean(axis=1)
    beyond = [eyes + 0.6 * (eyes - mouth), mouth + 0.55 * (mouth - eyes)]  # forehead and chin
    face = np.concatenate([points[:, :11], mouth[:, None], np.stack(beyond, axis=1)], axis=1)
    elbow, wrist = points[:, 13 + dominant], points[:, 15 + dominant]  # of the other arm: left is 13, right is 14
    forearm = np.stack([elbow + share * (wrist - elbow) for share in _ALONG], axis=1)
    palm = np.stack([other[:, 0] + 0.5 * (other[:, knuckle] - other[:, 0]) for knuckle in (5, 9, 13, 17)], axis=1)
    distances = np.array(
        [_nearest(hand, face), _to_chest(hand), _nearest(hand, np.concatenate([other, forearm, palm], axis=1))]
    )
    distances = np.minimum(np.append(distances, distances.min()), 1.0)
    return np.concatenate([distances, np.log(distances + 0.05)])


def _upright(points: np.ndarray) -> np.ndarray:
    """Turn points [T, 75, 3] to the signer's own frame: x along the shoulders, y up the back, z to the front."""
    left, right, hips = points[:, 11], points[:, 12], points[:, [23, 24]].mean(axis=1)
    origin = 0.5 * (left + right)
    x = unit(left - right)
    y = origin - hips
    y = unit(y - np.sum(y * x, axis=1, keepdims=True) * x)
    axes = np.stack([x, y, np.cross(x, y)], axis=1)
    return (points - origin[:, None]) @ axes.transpose(0, 2, 1)


def _nearest(hand: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(hand[:, :, None] - others[:, None], axis=-1).min())


def _to_chest(hand: np.ndarray) -> float:
    """Return the shoulder widths from a hand [T, 21, 3] to the plane of the chest, where there is chest behind it."""
    behind = (np.abs(hand[..., 0]) < 0.45) & (hand[..., 1] < 0.0)
    return float(np.where(behind, np.maximum(hand[..., 2] - _CHEST_DEPTH, 0.0), 1.0).min())


def _path(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shape of a path [T, 3] whatever its place, size and direction: its course, and numbers of its kind."""
    flat = points[:, :2] - points[:, :2].mean(axis=0)
    across, sizes, _ = np.linalg.svd(flat, full_matrices=False)
    size = max(float(sizes[0]), 1e-6)
    steps = np.diff(flat, axis=0)
    headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    length = float(np.linalg.norm(steps, axis=1).sum())
    area = 0.5 * float(np.abs(np.sum(flat[:-1, 0] * flat[1:, 1] - flat[1:, 0] * flat[:-1, 1])))
    along = across[:, 0] * np.sign(across[-1, 0] - across[0, 0] or 1.0)
    sideways = np.abs(across[:, 1]) * sizes[1] / size
    reversals = float(np.sum(np.diff(np.sign(np.diff(along))) != 0))
    ends = float(np.linalg.norm(flat[-1] - flat[0]))
    shape = [length, np.log(length / max(ends, 1e-3)), area / size**2, sizes[1] / size, reversals]
    shape += [abs(float(headings[-1] - headings[0])), float(np.abs(np.diff(headings)).sum()), np.log(size)]
    waves = np.abs(np.fft.rfft(along))[:_WAVES]
    return np.concatenate([along, sideways]), np.concatenate([shape, waves])


def pixel_features(manifest: Manifest) -> np.ndarray:
    """Return a few small grey pictures per clip as vectors [clips, D], each with mean 0 and deviation 1."""
    rows = []
    for clip in manifest:
        assert clip.frames is not None
        when = np.linspace(0, clip.frames - 1, _TIMES).round().astype(int)
        pictures = decode(manifest.path_of(clip), when)
        small = [
            cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
            for picture in pictures
        ]
        row = np.stack(small).astype(np.float32).ravel()
        rows.append((row - row.mean()) / max(float(row.std()), 1e-6))
    return np.stack(rows)


def neighbour_accuracy(features: np.ndarray, manifest: Manifest) -> float:
    """Return the share of clips whose nearest clip by signers of other folds shows the same sign."""
    forms = np.array([clip.form for clip in manifest])
    signers = np.array([clip.signer for clip in manifest])
    folds = min(FOLDS, len(set(signers.tolist())))
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
    return float((_predictions(model, features, forms, signers, folds) == forms).mean())


def read_features(features: np.ndarray, manifest: Manifest) -> list[Reading]:
    """Read every phonological feature of unseen signs; a feature without two frequent levels is left out."""
    lexicon = {sign.entry_id: sign for sign in read_lexicon(manifest.root / LEXICON)}
    forms = np.array([clip.form for clip in manifest])
    readings = []
    for field in PHONOLOGY:
        level_of = {form: getattr(lexicon[form], field) for form in sorted(set(forms.tolist()))}
        carried = Counter(level_of.values())
        frequent = {level for level, count in carried.items() if count >= FOLDS and level != ""}
        if len(frequent) < 2:
            continue
        levels = np.array([level_of[form] for form in forms])
        kept = np.isin(levels, sorted(frequent))
        x, y, groups = features[kept], levels[kept], forms[kept]
        size = min(_COMPONENTS, len(x) // 2, x.shape[1])
        models = {
            "neighbour": make_pipeline(StandardScaler(), _reduced(size), KNeighborsClassifier(1)),
            "linear": make_pipeline(
                StandardScaler(), _reduced(size), StandardScaler(),
                LogisticRegression(C=0.02, class_weight="balanced", max_iter=300),
            ),
        }  # fmt: skip
        scores = {
            name: float(balanced_accuracy_score(y, _predictions(model, x, y, groups))) for name, model in models.items()
        }
        signs = sum(carried[level] for level in frequent)
        readings.append(Reading(COLUMNS[field], len(frequent), signs, 1 / len(frequent), **scores))
    return readings


def _reduced(size: int) -> ColumnTransformer:
    """Return the largest components of a clip's vector, and its last numbers as they are."""
    return ColumnTransformer([("components", PCA(size, random_state=0), slice(None, -_KEPT))], remainder="passthrough")


def _predictions(model: Pipeline, x: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Predict each clip with a model that is fitted without any clip of its group."""
    predictions = np.empty_like(y)
    for train, test in GroupKFold(folds).split(x, y, groups):
        predictions[test] = model.fit(x[train], y[train]).predict(x[test])
    return predictions


def report(corpus: str | Path) -> str:
    """Return the baselines and readings of a corpus of isolated signs, as a markdown table.

    Raises:
        UserError: The folder holds no such corpus.
    """
    manifest = Manifest.load(corpus)
    if not (manifest.root / LEXICON).is_file() or not manifest.classes:
        raise UserError(f"{corpus}: not a rendered corpus of isolated signs")
    poses = pose_features(manifest)
    chance = 1 / len({clip.form for clip in manifest})
    lines = [f"{manifest.name}: {len(manifest)} clips, {len(manifest.classes)} signs"]
    if len({clip.signer for clip in manifest}) > 1:
        by_pose, by_pixel = (
            100 * neighbour_accuracy(features, manifest) for features in (poses, pixel_features(manifest))
        )
        lines.append(
            f"nearest neighbour, unseen signers: poses {by_pose:.1f} %, pixels {by_pixel:.1f} %,"
            f" chance {100 * chance:.1f} %"
        )
    lines += [
        "",
        "| feature, unseen signs | levels | signs | chance | nearest neighbour | linear |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.feature} | {one.levels} | {one.signs} | {100 * one.chance:.0f} | {100 * one.neighbour:.0f}"
        f" | {100 * one.linear:.0f} |"
        for one in read_features(poses, manifest)
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print the report of the one corpus named; 2 when the input is wrong, as with `islr`."""
    if len(arguments) != 1:
        print("usage: python -m islr.synth.validate CORPUS", file=sys.stderr)
        return 2
    try:
        print(report(arguments[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
