"""Phonological features of signs: a lexicon table in ASL-LEX's format, joined to the clips of a manifest.

A clip's targets are the features of its sign. Where the lexicon has several entries for one word, the word does not
tell which of them was signed; a policy per feature decides which levels are still known. Unknown targets are masked and
counted, and never form a class.
"""

import csv
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from islr.config import Config
from islr.data.manifest import SPLITS, Manifest
from islr.errors import UserError
from islr.files import file_sha256

UNKNOWN = -1

# "agree": the level that all entries share, else unknown. "exact": the entry of exactly that name, else as "agree".
# "single": unknown if there are several entries.
Policy = Literal["agree", "exact", "single"]
JoinBy = Literal["code", "form", "gloss"]
_POLICIES = ("agree", "exact", "single")


class Columns(Config):
    """The meaning of a lexicon's columns."""

    entry: str = Field(description="column of the entry's name, a word with an optional number (drink_2)")
    lemma: str | None = Field(None, description="column of the lemma's name")
    code: str | None = Field(None, description="column of the entry's code, which some corpora give for their clips")
    features: dict[str, str] = Field(min_length=1, description="feature -> column")
    # "None" is not among them: it is a level of ASL-LEX's movement.
    missing: tuple[str, ...] = Field(("", "NA"), description="cells that mean unknown or not applicable")


FEATURES = (
    *("Handshape", "SelectedFingers", "Flexion", "FlexionChange", "Spread", "SpreadChange", "ThumbPosition"),
    *("ThumbContact", "SignType", "Movement", "RepeatedMovement", "MajorLocation", "MinorLocation"),
    *("SecondMinorLocation", "Contact", "NonDominantHandshape", "UlnarRotation"),
)
# Tables in ASL-LEX's columns may lack its codes.
ASL_LEX = Columns(entry="EntryID", lemma="LemmaID", code="Code", features={name: f"{name}.2.0" for name in FEATURES})


@dataclass(frozen=True)
class Entry:
    """One row of a lexicon: its names, its level of each feature (None = missing) and its code."""

    name: str
    lemma: str
    levels: dict[str, str | None]
    code: str = ""


@dataclass(frozen=True)
class Lexicon:
    """A lexicon: entries in file order, and the sorted levels of each feature; a target is their index."""

    entries: tuple[Entry, ...]
    levels: dict[str, tuple[str, ...]]
    name: str
    sha256: str

    @property
    def features(self) -> tuple[str, ...]:
        """Feature names, in the order they were declared."""
        return tuple(self.levels)


@dataclass(frozen=True)
class Phonology:
    """Targets of the clips of a manifest, in its order.

    Attributes:
        features: Feature names.
        levels: Level names of each feature; the same for every manifest joined with the table.
        targets: int64 `[clips]` for each feature: index of the level, or -1 = unknown (mask it).
        signs: The unit of a split by sign: the key of the matched entries, "" for an unmatched clip.
        table: File name and sha256 of the lexicon.
        coverage: Counts of matched and dropped clips.
    """

    features: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    targets: dict[str, np.ndarray]
    signs: tuple[str, ...]
    table: tuple[str, str]
    coverage: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> np.ndarray:
        """Return int64 `[clips]`: the group that a split must keep on one side; -1 for an unmatched clip.

        Clips belong together when their signs share an entry or agree in every feature, since training on one would
        reveal the targets of the other.
        """
        parent: dict[Any, Any] = {}

        def top(item: Any) -> Any:
            while parent.setdefault(item, item) != item:
                item = parent[item]
            return item

        rows = np.stack([self.targets[feature] for feature in self.features], axis=1)  # [clips, features]
        # One row per sign is enough: all clips of a sign have the same targets.
        for sign, row in {sign: tuple(row.tolist()) for sign, row in zip(self.signs, rows, strict=True)}.items():
            if sign:
                keys = [*sign.split("|"), *([row] if max(row) != UNKNOWN else [])]
                for key in keys:
                    parent[top(key)] = top(keys[0])
        numbers: dict[Any, int] = {}
        roots = [top(sign.split("|")[0]) if sign else None for sign in self.signs]
        return np.array(
            [UNKNOWN if root is None else numbers.setdefault(root, len(numbers)) for root in roots],
            dtype=np.int64,
        )


def read_asl_lex(path: str | Path, columns: Columns = ASL_LEX) -> Lexicon:
    """Read a lexicon.

    Published ASL-LEX files are latin-1 or utf-8 with a byte order mark; both are read. Blanks around a cell are dropped
    (some entries have them), case is preserved (`B` and `b` are two handshapes).

    Raises:
        UserError: The file is missing, not csv, or lacks a declared column.
    """
    path = Path(path)
    rows = _read_rows(path)
    if columns.code == ASL_LEX.code and columns.code not in rows[0]:
        columns = columns.model_copy(update={"code": None})
    required = [
        columns.entry,
        *([columns.code] if columns.code else []),
        *([columns.lemma] if columns.lemma else []),
        *columns.features.values(),
    ]
    for column in required:
        if column not in rows[0]:
            near = difflib.get_close_matches(column, list(map(str, rows[0])), n=1)
            raise UserError(f"{path}: no column '{column}'{f'; nearest is {near[0]!r}' if near else ''}")

    def cell(row: dict[str, str], column: str) -> str:
        return (row[column] or "").strip()

    entries = tuple(
        Entry(
            name=cell(row, columns.entry),
            lemma=cell(row, columns.lemma) if columns.lemma else "",
            levels={
                feature: None if cell(row, column) in columns.missing else cell(row, column)
                for feature, column in columns.features.items()
            },
            code=cell(row, columns.code) if columns.code else "",
        )
        for row in rows
    )
    levels = {
        feature: tuple(sorted({level for entry in entries if (level := entry.levels[feature]) is not None}))
        for feature in columns.features
    }
    return Lexicon(entries, levels, path.name, file_sha256(path))


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such lexicon") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise UserError(f"{path}: not valid csv ({error})") from error
    if not rows:
        raise UserError(f"{path}: the lexicon has no entries")
    return rows


def join(
    manifest: Manifest,
    table: Lexicon,
    *,
    by: JoinBy | None = None,
    policy: Policy | Mapping[str, Policy] = "agree",
) -> Phonology:
    """Join a lexicon to a manifest: targets for every clip, present or not.

    Where clips have codes and the lexicon too, a clip's entry is the one of its code; a clip without one has none.
    Otherwise a clip's word is its form where the manifest has forms, else its gloss. Its entries are those whose name
    or lemma is that word, apart from case, punctuation and a trailing number. If all forms are entry names of this
    lexicon, each means exactly that entry. Other forms may name alternatives (`good_thank-you`); the first in the
    lexicon counts.

    Args:
        manifest: The clips.
        table: The lexicon.
        by: Join by code, form or gloss; None = by the first of them that any clip has.
        policy: The policy for words with several entries, for all features or per feature.

    Raises:
        UserError: A policy or feature is unknown, or no clip matches.
    """
    policies = _policies(policy, table.features)
    has_codes = any(entry.code for entry in table.entries)
    if by == "code" and not has_codes:
        raise UserError(f"{table.name}: has no column of codes; name it as 'code' in --columns")
    if by is None:
        given: dict[JoinBy, bool] = {"code": has_codes and any(clip.code for clip in manifest)}
        given |= {"form": any(clip.form for clip in manifest), "gloss": True}
        by = next(name for name, present in given.items() if present)
    words = [str(getattr(clip, str(by))) for clip in manifest]
    all_entries = {entry.name for entry in table.entries} >= set(words) - {""}
    finder = _Finder(table, own_names=by == "form" and all_entries)
    of_code = {entry.code: entry for entry in table.entries if entry.code}
    if by == "code":
        entries_of = {word: [of_code[word]] if word in of_code else [] for word in set(words)}
    else:
        entries_of = {word: finder.entries(word) for word in set(words)}
    targets = {feature: _targets(words, entries_of, table, feature, policies[feature]) for feature in table.features}
    signs = tuple("|".join(sorted({entry.name for entry in entries_of[word]})) for word in words)
    if not any(signs):
        raise UserError(
            f"no {by} of manifest '{manifest.name}' is in the lexicon {table.name}"
            + ("; --by gloss joins by spelling" if by == "code" else "")
        )
    coverage = {
        "joined_by": by,
        "policy": policies,
        "clips": len(manifest),
        "clips_matched": sum(map(bool, signs)),
        "clips_matched_by_split": {
            split: sum(bool(sign) for clip, sign in zip(manifest, signs, strict=True) if clip.split == split)
            for split in SPLITS
            if any(clip.split == split for clip in manifest)
        },
        "words": len(set(words) - {""}),
        "words_matched": sum(bool(entries) for entries in entries_of.values()),
        "words_matched_by_name": sum(
            by == "code" or finder.by_name(word) for word, entries in entries_of.items() if entries
        ),
        "words_with_several_entries": sum(len(entries) > 1 for entries in entries_of.values()),
        "clips_with_several_entries": sum(len(entries_of[word]) > 1 for word in words),
        "features": {
            feature: _feature_coverage(feature, targets[feature], signs, words, entries_of) | {"levels": len(levels)}
            for feature, levels in table.levels.items()
        },
    }
    return Phonology(table.features, table.levels, targets, signs, (table.name, table.sha256), coverage)


def _targets(
    words: Sequence[str], entries_of: Mapping[str, Sequence[Entry]], table: Lexicon, feature: str, policy: Policy
) -> np.ndarray:
    """Return int64 `[clips]`: the level of a feature that each clip's word has, or -1."""
    index = {level: number for number, level in enumerate(table.levels[feature])}
    levels = {word: _decide(word, entries, feature, policy) for word, entries in entries_of.items()}
    numbers = {word: UNKNOWN if level is None else index[level] for word, level in levels.items()}
    return np.array([numbers[word] for word in words], dtype=np.int64)


def _feature_coverage(
    feature: str,
    targets: np.ndarray,
    signs: Sequence[str],
    words: Sequence[str],
    entries_of: Mapping[str, Sequence[Entry]],
) -> dict[str, int]:
    several = {word for word, entries in entries_of.items() if len({entry.levels[feature] for entry in entries}) > 1}
    known = targets != UNKNOWN
    return {
        "clips_with_target": int(known.sum()),
        "signs_with_target": len({signs[int(i)] for i in np.flatnonzero(known)}),
        "clips_dropped_as_ambiguous": sum(word in several and not ok for word, ok in zip(words, known, strict=True)),
    }


def render_coverage(coverage: Mapping[str, Any]) -> str:
    """Render the coverage of a join as a text table."""
    splits = ", ".join(f"{split} {count}" for split, count in coverage["clips_matched_by_split"].items())
    how = "by code" if coverage["joined_by"] == "code" else "by name, the rest by lemma or number"
    lines = [
        f"joined by {coverage['joined_by']}: {coverage['words_matched']} of {coverage['words']} words"
        f" ({coverage['words_matched_by_name']} {how}),"
        f" {coverage['clips_matched']} of {coverage['clips']} clips ({splits})",
        f"several entries: {coverage['words_with_several_entries']} words,"
        f" {coverage['clips_with_several_entries']} clips",
        f"{'feature':<22}{'clips':>8}{'signs':>8}{'ambiguous':>11}{'levels':>8}  policy",
    ]
    for feature, row in coverage["features"].items():
        lines.append(
            f"{feature:<22}{row['clips_with_target']:>8}{row['signs_with_target']:>8}"
            f"{row['clips_dropped_as_ambiguous']:>11}{row['levels']:>8}  {coverage['policy'][feature]}"
        )
    return "\n".join(lines)


class _Finder:
    """A search for the entries of a word."""

    def __init__(self, table: Lexicon, own_names: bool) -> None:
        self.by_entry: dict[str, list[Entry]] = {}
        self.by_stem: dict[str, list[Entry]] = {}
        for entry in table.entries:
            self.by_entry.setdefault(entry.name, []).append(entry)
            for stem in {_stem(entry.name), _stem(entry.lemma)} - {""}:
                self.by_stem.setdefault(stem, []).append(entry)
        self.names = {_key(entry.name) for entry in table.entries}
        # Each lexicon numbers its entries itself: `computer_5` of another lexicon is not the fifth entry of this one.
        self.own_names = own_names

    def entries(self, word: str) -> list[Entry]:
        if self.own_names:
            return self.by_entry.get(word, [])
        plain = re.sub(r"^\([^)]*\)", "", word).lstrip("#")  # (1)cheat: a handshape; #ok: a finger-spelt loan
        for candidate in (word, plain, re.split(r"[_+/]", plain)[0]):
            if found := self.by_stem.get(_stem(candidate)):
                return found
        return []

    def by_name(self, word: str) -> bool:
        return _key(word) in self.names


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.strip().lower())


def _stem(name: str) -> str:
    return re.sub(r"_\d+$", "", _key(name))


def _decide(word: str, entries: Sequence[Entry], feature: str, policy: Policy) -> str | None:
    if policy == "exact":
        entries = [entry for entry in entries if _key(entry.name) == _key(word)] or entries
    if not entries or (policy == "single" and len(entries) > 1):
        return None
    levels = {entry.levels[feature] for entry in entries}
    return levels.pop() if len(levels) == 1 else None


def parse_policies(texts: Sequence[str]) -> Policy | dict[str, Policy]:
    """Parse `["exact"]` as the policy of all features, or `["Movement=single", ...]` as policies by feature.

    Raises:
        UserError: Both kinds at once, or more than one policy for all features.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]  # type: ignore[return-value]  # `join` checks the name
    chosen = {}
    for text in texts:
        feature, equals, name = text.partition("=")
        if not equals:
            raise UserError(f"policy '{text}': give one policy for all features, or FEATURE=POLICY for each")
        chosen[feature] = name
    return chosen  # type: ignore[return-value]


def _policies(policy: Policy | Mapping[str, Policy], features: Sequence[str]) -> dict[str, Policy]:
    chosen: dict[str, Policy] = dict.fromkeys(features, "agree")
    chosen.update(dict.fromkeys(features, policy) if isinstance(policy, str) else policy)
    for feature, name in chosen.items():
        if feature not in features:
            raise UserError(f"unknown feature '{feature}'; features are {', '.join(features)}")
        if name not in _POLICIES:
            raise UserError(f"unknown policy '{name}' for {feature}; policies are {', '.join(_POLICIES)}")
    return chosen
