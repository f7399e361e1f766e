"""Label spaces: classes of clips other than the glosses of their corpus.

WLASL is labelled by English word: one sign has several words, and one word several signs. A revised label file, which
users obtain themselves, gives each video the class of its sign's form instead.
"""

import csv
import importlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.manifest import Clip, Manifest
from islr.errors import UserError
from islr.files import file_sha256

# Column names that public files use, in the order they are looked for.
_ID_COLUMNS = ("video_id", "video id", "clip_id", "id", "video", "file", "filename", "path")
_CLASS_COLUMNS = ("class", "class_label", "class label", "form", "label", "gloss")
_READINGS = ("original", "same_form", "revised")
_MOST_UNUSED, _FEW = 10, 1000  # a typing error in a class number must not create millions of classes
_HEADER_ROWS = 5  # spreadsheets open with a title line or two


@dataclass(frozen=True)
class Labels:
    """Class names, the class index of every video id, and the sha256 of the files they came from."""

    classes: tuple[str, ...]
    of: dict[str, int]
    sources: dict[str, str]

    def of_clip(self, clip_id: str) -> int | None:
        """Return the class of a clip; `123` also matches `00123`, since spreadsheets drop leading zeros."""
        return self.of.get(clip_id, self.of.get(clip_id.lstrip("0")) if clip_id.isdecimal() else None)


def read_labels(files: str | Path | Sequence[str | Path], names: str | Path | None = None) -> Labels:
    """Read a label file or several that belong together.

    Two layouts are known: a table (csv, tsv or xlsx) with a column of video ids and a column of class
    names, and the list `path class-number` that VideoMAE and its descendants read, with the class names in
    a second file.

    Args:
        files: The label files (a list for train, dev and test).
        names: Class names, line k naming class k; only for numbered classes.

    Raises:
        UserError: A file is missing, has neither layout, or gives one video two classes.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    label_of: dict[str, str | int] = {}
    for path in paths:
        for video, label in _read_pairs(path):
            if label_of.setdefault(video, label) != label:
                raise UserError(f"{path}: video {video} has two classes, '{label_of[video]}' and '{label}'")
    if not label_of:
        raise UserError(f"{paths[0]}: holds no labels")
    sources = {path.name: file_sha256(path) for path in [*paths, *([Path(names)] if names else [])]}
    numbered = [label for label in label_of.values() if isinstance(label, int)]
    if not numbered:
        if names is not None:
            raise UserError(f"{paths[0]}: names its classes itself, so {names} is not needed")
        classes = tuple(sorted({str(label) for label in label_of.values()}))
        index = {name: number for number, name in enumerate(classes)}
        return Labels(classes, {video: index[str(label)] for video, label in label_of.items()}, sources)
    if len(numbered) != len(label_of):
        raise UserError(f"{paths[0]}: some classes are numbers and some are names")
    if max(numbered) >= _MOST_UNUSED * len(set(numbered)) + _FEW:
        raise UserError(
            f"{paths[0]}: class {max(numbered)} is far beyond the {len(set(numbered))} in use; count from 0"
        )
    if names is None:
        classes = tuple(str(number) for number in range(max(numbered) + 1))
    else:
        classes = tuple(_text(Path(names)).splitlines())
        if max(numbered) >= len(classes):
            raise UserError(f"{names}: has {len(classes)} names but class {max(numbered)} is used")
    return Labels(classes, {video: int(label) for video, label in label_of.items()}, sources)


def revise(manifest: Manifest, labels: Labels, *, only_used: bool = False) -> Manifest:
    """Return the manifest in another label space.

    `form` and `label` become the clip's class in `labels`. A clip without one keeps its gloss but leaves its split
    (split "none"), so that the fingerprint and size of every split are those of the labelled clips; the notes count
    them per split.

    Args:
        manifest: Any manifest; its clip ids are matched with the label file's video ids.
        labels: The label space.
        only_used: Drop classes that no clip of the manifest has, and number the rest anew.

    Raises:
        UserError: No clip has a label.
    """
    numbers = [labels.of_clip(clip.clip_id) for clip in manifest]
    used = sorted({number for number in numbers if number is not None})
    if not used:
        raise UserError(
            f"none of the {len(manifest)} clips of '{manifest.name}' is in the label file;"
            f" its ids look like '{next(iter(labels.of))}', the corpus's like '{manifest.clips[0].clip_id}'"
        )
    kept = used if only_used else list(range(len(labels.classes)))
    index = {number: place for place, number in enumerate(kept)}
    pairs = zip(manifest, numbers, strict=True)
    clips = tuple(_relabel(clip, number, labels, index) for clip, number in pairs)
    coverage = {
        split: {
            "labelled": sum(clip.split == split for clip in clips),
            "of": sum(clip.split == split for clip in manifest),
        }
        for split in ("train", "val", "test")
    }
    return replace(
        manifest,
        clips=clips,
        classes=tuple(labels.classes[number] for number in kept),
        sources={**manifest.sources, **labels.sources},
        notes={
            **manifest.notes,
            "label_space": f"revised ({', '.join(labels.sources)})",
            "revised_label_coverage": coverage,
        },
    )


def with_forms(manifest: Manifest, labels: Labels) -> Manifest:
    """Return the manifest with each clip's form beside its own label, as form-aware scoring needs.

    Raises:
        UserError: No clip has a form.
    """
    clips = []
    for clip in manifest:
        number = labels.of_clip(clip.clip_id)
        clips.append(replace(clip, form="" if number is None else labels.classes[number]))
    if not any(clip.form for clip in clips):
        raise UserError(f"none of the {len(clips)} clips of '{manifest.name}' is in the file of forms")
    return replace(manifest, clips=tuple(clips), sources={**manifest.sources, **labels.sources})


@dataclass(frozen=True)
class FormTable:
    """Counts of each class signed with each form, on training clips: `counts` int64 `[C, F]`."""

    classes: tuple[str, ...]
    forms: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def count(cls, manifest: Manifest, split: str = "train") -> "FormTable":
        """Count the clips of a split that have both a label and a form, present or not.

        Raises:
            UserError: There are none.
        """
        forms = tuple(sorted({clip.form for clip in manifest if clip.form}))
        index = {form: number for number, form in enumerate(forms)}
        counts = np.zeros((len(manifest.classes), len(forms)), dtype=np.int64)
        for clip in manifest:
            if clip.split == split and clip.form and clip.label is not None:
                counts[clip.label, index[clip.form]] += 1
        if not counts.any():
            raise UserError(f"no {split} clip of '{manifest.name}' has both a label and a form")
        return cls(manifest.classes, forms, counts)

    @property
    def is_trivial(self) -> bool:
        """Whether each label has one form and each form one label, so that scores by form add nothing."""
        used = self.counts > 0
        return bool((used.sum(axis=0) <= 1).all() and (used.sum(axis=1) <= 1).all())


def label_ceiling(manifest: Manifest, table: FormTable, split: str = "test") -> dict[str, Any]:
    """Return the accuracy that a perfect recogniser of sign form reaches on the labels of a split.

    It predicts the classes that had the clip's form most often in training. Classes of equal count are ranked in the
    order of the label space; `*_other_ties` is the result of the opposite order. A form that does not occur in training
    is always wrong.

    Returns:
        Fractions `top1` and `top5`, each with `_other_ties`; `n` scored clips `of` those in the split, and
        how many have a form that is `unseen`.
    """
    clips = [clip for clip in manifest if clip.split == split and clip.label is not None]
    index = {form: number for number, form in enumerate(table.forms)}
    scored = [clip for clip in clips if clip.form]
    if not scored:
        raise UserError(f"no {split} clip of '{manifest.name}' has a form")
    labels = np.array([clip.label for clip in scored])
    forms = np.array([index.get(clip.form, -1) for clip in scored])
    in_training = (forms >= 0) & (table.counts.sum(axis=0)[forms] > 0)
    last = len(table.classes) - 1
    orders = {
        "": np.argsort(-table.counts, axis=0, kind="stable"),
        "_other_ties": last - np.argsort(-table.counts[::-1], axis=0, kind="stable"),
    }
    result: dict[str, Any] = {"n": len(scored), "of": len(clips), "unseen": int((~in_training).sum())}
    for suffix, order in orders.items():
        for k in (1, 5):
            named = order[:k, forms] == labels  # [k, n]
            # A class that never had the form is no prediction, even where fewer than k classes had it.
            possible = table.counts[order[:k, forms], forms] > 0
            result[f"top{k}{suffix}"] = float((named & possible & in_training).any(axis=0).mean())
    return result


def form_hits(
    table: FormTable, ranked: Sequence[Sequence[str]], classes: Sequence[str], forms: Sequence[str]
) -> dict[str, np.ndarray]:
    """Score a model of the original labels by the form of the sign.

    Three readings of the same ranked predictions: `original` (the clip's own class is predicted), `same_form` (a
    predicted class was signed with the clip's form in training) and `revised` (each predicted class stands for its most
    frequent form, without repeats, and the clip's form is among them).

    Args:
        table: Counted on training clips.
        ranked: Class names for each clip, best first.
        classes: Each clip's class.
        forms: Each clip's form, never empty.

    Returns:
        `<reading>_top1` and `<reading>_top5`, 1.0 where correct: float64 `[N]`.

    Raises:
        UserError: A class is not one of the table's.
    """
    class_index = {name: number for number, name in enumerate(table.classes)}
    form_index = {name: number for number, name in enumerate(table.forms)}
    usual = np.where(table.counts.any(axis=1), table.counts.argmax(axis=1), -1)
    hits: dict[str, list[bool]] = {f"{what}_top{k}": [] for what in _READINGS for k in (1, 5)}
    for names, own, form in zip(ranked, classes, forms, strict=True):
        unknown = [name for name in (*names, own) if name not in class_index]
        if unknown:
            raise UserError(f"class '{unknown[0]}' is not in the label space of the form table")
        rows = [class_index[name] for name in names]
        number = form_index.get(form)
        shares = [number is not None and table.counts[row, number] > 0 for row in rows]
        as_forms = list(dict.fromkeys(int(usual[row]) for row in rows))
        for k in (1, 5):
            hits[f"original_top{k}"].append(own in names[:k])
            hits[f"same_form_top{k}"].append(any(shares[:k]))
            hits[f"revised_top{k}"].append(number in as_forms[:k])
    return {name: np.array(values, dtype=np.float64) for name, values in hits.items()}


def _relabel(clip: Clip, number: int | None, labels: Labels, index: dict[int, int]) -> Clip:
    if number is None:
        return replace(clip, form="", label=None, split="none")
    return replace(clip, form=labels.classes[number], label=index[number])


def _read_pairs(path: Path) -> Iterable[tuple[str, str | int]]:
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        return _from_table(_sheet(path), path)
    lines = _text(path).splitlines()
    if not lines:
        return []
    separator = "," if "," in lines[0] else None
    pairs = [line.rsplit(separator, 1) for line in lines if line.strip()]
    if pairs and all(len(pair) == 2 and pair[1].strip().isdecimal() for pair in pairs):
        return [(Path(video.strip()).stem, int(label)) for video, label in pairs]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    return _from_table([list(row) for row in csv.reader(lines, delimiter=delimiter)], path)


def _from_table(rows: list[list[str]], path: Path) -> list[tuple[str, str | int]]:
    for below, row in enumerate(rows[:_HEADER_ROWS], start=1):
        header = [cell.strip().lower() for cell in row]
        video = next((header.index(name) for name in _ID_COLUMNS if name in header), None)
        label = next((header.index(name) for name in _CLASS_COLUMNS if name in header), None)
        if video is not None and label is not None:
            wide = [row for row in rows[below:] if len(row) > max(video, label)]
            pairs = [(row[video].strip(), row[label].strip()) for row in wide]
            pairs = [(Path(name).stem, text) for name, text in pairs if name and text]
            numbers = [text.removesuffix(".0") for _, text in pairs]  # spreadsheets write whole numbers as 3.0
            if pairs and all(number.isdecimal() for number in numbers):
                return [(name, int(number)) for (name, _), number in zip(pairs, numbers, strict=True)]
            return [(name, unicodedata.normalize("NFC", text)) for name, text in pairs]
    raise UserError(f"{path}: a label file has columns video_id and class, or lines `path class-number`")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such label file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error


def _sheet(path: Path) -> list[list[str]]:
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError:
        raise UserError(f"{path}: to read xlsx, `pip install islr-bench[xlsx]` or save it as csv") from None
    if not path.is_file():
        raise UserError(f"{path}: no such label file")
    try:
        book: Any = openpyxl.load_workbook(path, read_only=True, data_only=True)
        cells = book.active.iter_rows(values_only=True)
        rows = [["" if cell is None else str(cell) for cell in row] for row in cells]
        book.close()
    except Exception as error:  # a broken file can raise any error in openpyxl
        raise UserError(f"{path}: cannot be read as xlsx ({error})") from error
    return rows
