"""Protocol and fingerprints of every number."""

from collections.abc import Sequence

from islr.evaluation.results import Provenance
from islr.files import slug
from islr.progress import duration
from islr.reporting.document.blocks import Block, Column, Notice, ReportTable, Section, TableCell
from islr.reporting.document.cells import hash_cell
from islr.reporting.findings.standings import MOST_ROWS
from islr.reporting.gather import Gathered
from islr.reporting.sections.lineage import clips_words

PROVENANCE_NAMES = {
    "protocol": "Protocol",
    "manifest": "Corpus",
    "split": "Split scored",
    "split_fingerprint": "Split fingerprint",
    "label_space": "Label space",
    "label_fingerprint": "Label fingerprint",
    "clips": "Clips scored / expected",
    "selection_set": "Chosen on",
    "views": "Views (time x space)",
    "decoder": "Decoder",
    "encoder": "Encoder",
    "pretraining": "Pre-training",
    "seed": "Seed",
    "config_hash": "Configuration",
    "checkpoint_hash": "Weights",
    "commit": "Code",
    "libraries": "Libraries",
    "device": "Device",
    "wall_time": "Wall time",
    "cluster": "Intervals and tests draw",
    "parents": "Fused from",
}


def section(gathered: Gathered) -> Section:
    """Protocol and fingerprints of every number: for each protocol what all rows share, then what differs."""
    by_protocol: dict[str, list[tuple[str, str, dict[str, str]]]] = {}  # -> run anchor, row, field -> words
    for run in gathered.runs:
        known: list[Provenance] = []
        for record in run.results:
            p = record.provenance
            if p not in known:
                known.append(p)
                label = record.name if record.name == run.label else f"{record.name} ({run.label})"
                by_protocol.setdefault(p.protocol, []).append((run.anchor, label, provenance_words(p)))
    if not by_protocol:
        nothing = Notice("There is no result yet, and so no provenance.")
        return Section("provenance", "Protocol and fingerprints", (nothing,))
    blocks = [block for protocol, rows in sorted(by_protocol.items()) for block in _protocol(protocol, rows)]
    lead = (
        "Every number names what it depends on. Two numbers are comparable only when split, labels and clips have "
        "the same fingerprints. Hashes are sha256, shortened here; the full ones are in the tooltips and in the CSV."
    )
    return Section("provenance", "Protocol and fingerprints", tuple(blocks), lead)


def _protocol(protocol: str, entries: Sequence[tuple[str, str, dict[str, str]]]) -> list[Block]:
    fields = list(PROVENANCE_NAMES)
    shared = [f for f in fields if len({words[f] for _, _, words in entries}) == 1]
    differing = [f for f in fields if f not in shared]
    name = slug(protocol)
    blocks: list[Block] = []
    if shared:
        rows = tuple((TableCell(PROVENANCE_NAMES[f]), hash_cell(entries[0][2][f])) for f in shared)
        columns = (Column("Field"), Column("Value"))
        blocks.append(ReportTable(f"provenance-{name}", f"The same for every {protocol} number", columns, rows))
    if differing:
        heads = (Column("Row (run folder)"), *(Column(PROVENANCE_NAMES[f]) for f in differing))
        anchored: set[str] = set()
        body = []
        for anchor, label, words in entries:
            first = TableCell(label, anchor="" if anchor in anchored else anchor)
            anchored.add(anchor)
            body.append((first, *(hash_cell(words[f]) for f in differing)))
        title = f"What differs between {protocol} numbers"
        blocks.append(ReportTable(f"provenance-{name}-rows", title, heads, tuple(body), folded=len(body) > MOST_ROWS))
    return blocks


def provenance_words(p: Provenance) -> dict[str, str]:
    """Return all fields of a provenance as text, with full hashes; keys as in `PROVENANCE_NAMES`."""
    stages = [
        f"{s.get('recipe', '?')} on {s.get('manifest', '?')} ({clips_words(s.get('clips', '?'))} clips, "
        f"{s.get('fingerprint', 'no fingerprint')})"
        for s in p.pretraining
    ]
    own = {key: str(value) for key, value in p.model_dump().items() if key in PROVENANCE_NAMES}
    return own | {
        "clips": f"{p.clips_present} / {p.clips_expected}",
        "pretraining": " → ".join(stages) or "none",
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(p.libraries.items())),
        "wall_time": duration(p.wall_time_s),
        "cluster": "whole signers" if p.cluster else "as each interval says",
        "parents": " + ".join(_parent_words(parent) for parent in p.parents),
    }


def _parent_words(parent: dict[str, str]) -> str:
    facts = (
        f"{parent.get('encoder', '?')}, views {parent.get('views', '?')}, weights {parent.get('checkpoint_hash', '?')}"
    )
    return f"{parent.get('weight', '?')} x {parent.get('name', '?')} ({facts})"
