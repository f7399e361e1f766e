"""The corpora: sample frames, and the audit of each corpus folder."""

from typing import Any

import cv2

from islr.files import slug
from islr.reporting.document import text
from islr.reporting.document.blocks import (
    ABSENT,
    Block,
    Column,
    Notice,
    Picture,
    Prose,
    ReportTable,
    Section,
    TableCell,
    number_column,
)
from islr.reporting.document.cells import hash_cell
from islr.reporting.gather import Gathered
from islr.reporting.run_files import ReportedCorpus
from islr.reporting.sections.pictures import PHOTO, webp


def samples(gathered: Gathered) -> Section | None:
    """Sample frames of each corpus."""
    blocks: list[Block] = []
    for corpus in gathered.corpora:
        if corpus.samples is not None:
            sheet = cv2.imread(str(corpus.samples))
            if sheet is None:
                blocks.append(Notice(f"The sample sheet of {corpus.label} cannot be read.", "warning"))
                continue
            caption = f"Frames of clips from {corpus.name}."
            blocks.append(Picture(caption, (("", webp(sheet, PHOTO)),), half=True))
    return Section("samples", "Sample frames", tuple(blocks)) if blocks else None


def audit(gathered: Gathered) -> Section:
    """The data audit of each corpus."""
    blocks: list[Block] = []
    for corpus in gathered.corpora:
        if corpus.problem:
            blocks.append(Notice(f"{corpus.label}: {corpus.problem}.", "warning"))
        if corpus.audit:
            blocks += audit_blocks(corpus)
        elif not corpus.problem:
            blocks.append(Notice(f"{corpus.name} was not audited (no audit.json in {corpus.label})."))
    if not blocks:
        blocks.append(Notice("No corpus folder (with audit.json) was among the given folders."))
    lead = "Missing and broken clips are counted as expected clips, so that a lost file never makes a split easier."
    return Section("data", "Data audit", tuple(blocks), lead)


def audit_blocks(corpus: ReportedCorpus) -> list[Block]:
    """Return the blocks on one corpus: splits, warnings, checks, and folded all facts."""
    splits = corpus.audit.get("splits")
    blocks: list[Block] = [_splits(corpus, splits)] if isinstance(splits, dict) and splits else []
    if corpus.counted:
        words = f"{corpus.name} has no audit.json: these facts are counted from its manifest; no file was opened."
        blocks.append(Notice(words))
    blocks += _warnings(corpus)
    items = _checks(corpus.audit)
    blocks += [Prose(items=tuple(items))] if items else []
    rows = tuple((TableCell(name), hash_cell(value)) for name, value in facts_of(corpus.audit))
    title, columns = f"Every audited fact of {corpus.name}", (Column("Fact"), Column("Value"))
    return [*blocks, ReportTable(f"audit-{slug(corpus.label)}", title, columns, rows, folded=bool(blocks))]


def _splits(corpus: ReportedCorpus, splits: dict[str, Any]) -> ReportTable:
    counted = ("expected", "present", "missing", "corrupt", "classes_present", "classes", "signers")
    names = ("Listed", "Present", "Missing", "Corrupt", "Classes present", "Classes listed", "Signers")
    columns = [Column("Split"), *(number_column(name) for name in names)]
    columns += [number_column("Median, s"), number_column("Hours"), Column("Fingerprint")]
    rows = []
    for split, facts in splits.items():
        cells = [TableCell(split)]
        for key in counted:
            value = facts.get(key)
            cells.append(ABSENT if value is None else TableCell(text.count(value), value))
        length = (corpus.audit.get("duration_s") or {}).get(split) or {}
        for key, digits in (("p50", 2), ("total_hours", 2)):
            value = length.get(key)
            cells.append(ABSENT if value is None else TableCell(f"{value:.{digits}f}", value))
        cells.append(hash_cell(str(facts.get("fingerprint", "–"))))
        rows.append(tuple(cells))
    name = f"splits-{slug(corpus.label)}"
    note = "The fingerprint covers every listed clip and its label, present or not."
    return ReportTable(name, f"Splits of {corpus.name}", tuple(columns), tuple(rows), note)


def _warnings(corpus: ReportedCorpus) -> list[Block]:
    found: list[str] = []
    audited = corpus.audit
    clips, present = audited.get("clips"), audited.get("present")
    if isinstance(clips, int) and isinstance(present, int) and present < clips:
        kinds = ", ".join(f"{kind} {n}" for kind, n in (audited.get("corrupt_by_kind") or {}).items())
        broken = f" (corrupt: {kinds})" if kinds else ""
        lost = f"{text.count(clips - present)} of {text.count(clips)} clips are missing or corrupt{broken}"
        found.append(f"{corpus.name}: {lost}; {text.count(present)} are present.")
    for key, what in (("same_content", "identical pictures"), ("same_origin", "the same recording")):
        across = (audited.get(key) or {}).get("groups_across_splits", 0)
        if across:
            leaks = (audited.get(key) or {}).get("test_clips_in_train_with_the_same_label", 0)
            extra = f"; {leaks} test clips are in train with the same label" if leaks else ""
            found.append(f"{corpus.name}: {across} groups of clips with {what} lie in more than one split{extra}.")
    return [Notice(words, "warning") for words in found]


def _checks(audited: dict[str, Any]) -> list[tuple[str, str]]:
    items: list[tuple[str, str]] = []
    overlap = (audited.get("signers") or {}).get("overlap") or {}
    if overlap:
        words = []
        for pair, facts in overlap.items():
            n = facts.get("signers", 0)
            words.append(f"{pair.replace('/', ' and ')} share {'no signer' if n == 0 else f'{n} signers'}")
        items.append(("Signers.", "; ".join(words) + "."))
    for key, title in (("same_content", "Equal files."), ("same_origin", "Same recording, by origin.")):
        facts = audited.get(key)
        if facts:
            n = facts.get("groups", 0)
            where = f"{facts.get('groups_across_splits', 0)} across splits, {facts.get('groups_across_labels', 0)} "
            sets = list(facts.get("most_frequent_label_sets") or {})[:4]
            noise = f" One recording, several labels: {'; '.join(sets)}." if sets else ""
            items.append((title, f"{n} groups ({where}across labels).{noise}" if n else "none."))
    items += _ceilings(audited.get("forms") or {})
    poses = audited.get("poses")
    if poses:
        shares = poses.get("share_of_frames_with_hand") or {}
        hands = ", ".join(f"{name} hand in {text.percent(share)} %" for name, share in shares.items())
        items.append(
            (
                "Poses.",
                f"{poses.get('with_pose')} of {poses.get('clips')} clips" + (f"; {hands} of frames." if hands else "."),
            )
        )
    for key, title in (("fps", "Frame rates."), ("resolution", "Resolutions.")):
        table = audited.get(key)
        if isinstance(table, dict) and table:
            common = list(table.items())[:4]
            rest = f" and {len(table) - 4} more" if len(table) > 4 else ""
            items.append((title, ", ".join(f"{name} ({text.count(n)})" for name, n in common) + rest + "."))
    return items


def _ceilings(forms: dict[str, Any]) -> list[tuple[str, str]]:
    """What the labels allow a perfect recogniser of sign form, per split."""
    items = []
    for split, ceiling in (forms.get("label_ceiling") or {}).items():
        low, high = sorted((ceiling["top1"], ceiling["top1_other_ties"]))
        top1 = text.percent(low) if text.percent(low) == text.percent(high) else text.interval(low, high)
        top5, n, of = text.percent(ceiling["top5"]), text.count(ceiling["n"]), text.count(ceiling["of"])
        why = f"in training {forms['train_forms_with_several_labels']} forms have several labels"
        words = (
            f"a perfect recogniser of sign form reaches {top1} % top-1 and {top5} % top-5 on the labels of {n} of {of}"
        )
        items.append((f"Label ceiling, {split}.", f"{words} clips, because {why}."))
    return items


def facts_of(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (name, words), depth first."""
    facts: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{key}".replace("_", " ")
        name = name[:1].upper() + name[1:]
        if isinstance(value, dict):
            facts += facts_of(value, f"{name}, ") if value else [(name, "none")]
        elif isinstance(value, list):
            few = len(value) <= 4 and all(isinstance(item, str | int | float) for item in value)
            facts.append(
                (
                    name,
                    ", ".join(map(str, value)) if few and value else text.count(len(value)) if value else "none",
                )
            )
        elif isinstance(value, bool):
            facts.append((name, "yes" if value else "no"))
        elif isinstance(value, int | float):
            facts.append((name, text.number(value)))
        else:
            facts.append((name, "–" if value is None else str(value)))
    return facts
