"""Probing targets: phonological features of the clips, and the groups of clips that a split must keep together."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from islr.data.manifest import Manifest
from islr.data.phonology import UNKNOWN, Lexicon, Phonology
from islr.errors import UserError

# Features that depend on each other: Handshape alone determines SelectedFingers, Flexion, Spread and ThumbPosition to
# 97 % and more in ASL-LEX 2.0, so a mean over features would count the handshape six times.
BUNDLES: dict[str, tuple[str, ...]] = {
    "handshape": (
        *("Handshape", "SelectedFingers", "Flexion", "FlexionChange", "Spread", "SpreadChange"),
        *("ThumbPosition", "ThumbContact"),
    ),
    "location": ("MajorLocation", "MinorLocation", "SecondMinorLocation", "Contact"),
    "movement": ("Movement", "RepeatedMovement", "UlnarRotation"),
    "two-handedness": ("SignType",),
    "nondominant": ("NonDominantHandshape",),
}


@dataclass(frozen=True)
class Targets:
    """Labels of clips, sorted by clip id so that results do not depend on the order of a manifest.

    Attributes:
        clip_ids: The clips that have at least one label.
        features: int64 `[N]` for each feature; -1 = missing.
        classes: Class names of each feature.
        signs: Sign of each clip: its phonological entries, gloss and form.
        groups: Sign group of each clip; clips of different groups share neither sign, lemma nor all features.
        contents: Identifier of the recording, equal for two clips of one video range or of equal content.
        signers: Signer of each clip, "" = unknown.
        official: Official split of each clip.
    """

    clip_ids: np.ndarray
    features: dict[str, np.ndarray]
    classes: dict[str, tuple[str, ...]]
    signs: np.ndarray
    groups: np.ndarray
    contents: np.ndarray
    signers: np.ndarray
    official: np.ndarray

    def __post_init__(self) -> None:
        assert (np.sort(self.clip_ids) == self.clip_ids).all(), "clips are sorted by id"

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def labels(self) -> np.ndarray:
        """Labels of all features, int64 `[F, N]`."""
        return np.stack(list(self.features.values()))

    @property
    def bundles(self) -> dict[str, tuple[str, ...]]:
        """The present features of each bundle; a feature outside all bundles is its own bundle."""
        known = {feature for members in BUNDLES.values() for feature in members}
        present = {name: tuple(f for f in members if f in self.features) for name, members in BUNDLES.items()}
        alone = {feature: (feature,) for feature in self.features if feature not in known}
        return {name: members for name, members in {**present, **alone}.items() if members}

    def only(self, features: Sequence[str]) -> "Targets":
        """Return the same clips with fewer features."""
        return replace(
            self,
            features={name: self.features[name] for name in features},
            classes={name: self.classes[name] for name in features},
        )

    def at(self, clip_ids: np.ndarray) -> "Targets":
        """Return the targets of some clips, sorted by id; all of them must be known."""
        rows = np.searchsorted(self.clip_ids, clip_ids)
        assert (self.clip_ids[rows] == clip_ids).all(), "unknown clip"
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in ("features", "classes")}
        return replace(self, features={name: labels[rows] for name, labels in self.features.items()}, **columns)

    def fingerprint(self) -> str:
        """Return the sha256 over clips, class names and labels."""
        digest = hashlib.sha256("\n".join(self.clip_ids.tolist()).encode())
        for feature, labels in self.features.items():
            digest.update(f"\n{feature}\t{'|'.join(self.classes[feature])}\n".encode())
            digest.update(labels.astype("<i8").tobytes())
        return digest.hexdigest()


def make_targets(
    *,
    clip_ids: Sequence[str],
    features: Mapping[str, np.ndarray],
    classes: Mapping[str, Sequence[str]],
    signs: Sequence[str],
    groups: Sequence[str] | None = None,
    contents: Sequence[str] | None = None,
    signers: Sequence[str] | None = None,
    official: Sequence[str] | None = None,
) -> Targets:
    """Build targets from plain columns, sorted by clip id, without the clips that have no label.

    Raises:
        UserError: A clip id occurs twice, or nothing is left.
    """
    ids = np.array(clip_ids, dtype=np.str_)
    if len(np.unique(ids)) != len(ids):
        raise UserError("a clip id occurs twice among the clips to probe")
    labelled = np.any([np.asarray(labels) >= 0 for labels in features.values()], axis=0)
    rows = np.argsort(ids)
    rows = rows[labelled[rows]]
    if not len(rows):
        raise UserError("no clip has a label of any of the features; check that manifest and lexicon belong together")

    def column(values: Sequence[str] | None, default: Sequence[str]) -> np.ndarray:
        return np.array(default if values is None else values, dtype=np.str_)[rows]

    blank = [""] * len(ids)
    return Targets(
        clip_ids=ids[rows],
        features={name: np.asarray(labels, dtype=np.int64)[rows] for name, labels in features.items()},
        classes={name: tuple(classes[name]) for name in features},
        signs=column(signs, signs),
        groups=column(groups, signs),
        contents=column(contents, clip_ids),
        signers=column(signers, blank),
        official=column(official, ["none"] * len(ids)),
    )


def targets_from(
    manifest: Manifest,
    phonology: Phonology,
    table: Lexicon,
    features: Sequence[str] | None = None,
    same: Sequence[Sequence[str]] = (),
) -> Targets:
    """Build the targets of a manifest's clips, present or not.

    Groups join the clips whose signs share an entry, a lemma or the whole phonological vector
    (`Phonology.groups`), a gloss, a form, or the recording itself.

    Args:
        manifest: The clips.
        phonology: Its join with the table.
        table: The lexicon.
        features: The features to probe; None = all.
        same: Clip ids whose videos have equal content (`islr.data.audit.duplicates.same_content`).

    Raises:
        UserError: A feature is unknown, or no clip has a label.
    """
    chosen = list(phonology.features if features is None else features)
    for feature in chosen:
        if feature not in phonology.features:
            raise UserError(f"unknown feature '{feature}'; the lexicon has {', '.join(phonology.features)}")
    contents = _recordings(manifest, same)
    signs = [
        "|".join(filter(None, (sign, clip.gloss, clip.form)))
        for clip, sign in zip(manifest, phonology.signs, strict=True)
    ]
    return make_targets(
        clip_ids=[clip.clip_id for clip in manifest],
        features={feature: phonology.targets[feature] for feature in chosen},
        classes={feature: phonology.levels[feature] for feature in chosen},
        signs=signs,
        groups=connected(signs, _group_keys(manifest, phonology, table, contents)),
        contents=contents,
        signers=[clip.signer for clip in manifest],
        official=[clip.split for clip in manifest],
    )


def _recordings(manifest: Manifest, same: Sequence[Sequence[str]]) -> list[str]:
    """Return what identifies the recording of each clip: its video range, joined over clips of equal content."""
    equal: dict[str, list[Hashable]] = {}
    for number, clip_ids in enumerate(same):
        for clip_id in clip_ids:
            equal.setdefault(clip_id, []).append(("content", number))
    ranges = [f"{clip.path}|{clip.start}|{clip.end}" for clip in manifest]
    return connected(ranges, [equal.get(clip.clip_id, []) for clip in manifest])


def _group_keys(
    manifest: Manifest, phonology: Phonology, table: Lexicon, contents: Sequence[str]
) -> list[list[Hashable]]:
    """Return the keys of each clip that join it to others of its sign group."""
    lemma = {entry.name: entry.lemma for entry in table.entries}
    keys: list[list[Hashable]] = []
    rows = zip(manifest, phonology.signs, phonology.groups().tolist(), contents, strict=True)
    for clip, sign, number, content in rows:
        own: list[Hashable] = [("recording", content)]
        # A gloss without an entry must not join signs that the lexicon distinguishes.
        if sign:
            names = [("gloss", clip.gloss), ("form", clip.form), *(("lemma", lemma[e]) for e in sign.split("|") if e)]
            own += [("group", number)] if number != UNKNOWN else []
            own += [key for key in names if key[1]]
        keys.append(own)
    return keys


def connected(names: Sequence[str], keys: Sequence[Sequence[Hashable]]) -> list[str]:
    """Group items that share a name or any key, directly or through others; return the first name of each group."""
    joined: DisjointSet = DisjointSet()
    for name, row in zip(names, keys, strict=True):
        joined.add(("name", name))
        for key in row:
            joined.add(key)
            joined.merge(key, ("name", name))
    first: dict[Hashable, str] = {}
    for name in sorted(set(names)):
        first.setdefault(joined["name", name], name)
    return [first[joined["name", name]] for name in names]
