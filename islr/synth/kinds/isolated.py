"""Clips of one sign: listed as WLASL v0.3 lists its videos, with the lexicon in ASL-LEX columns beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.manifest import Clip
from islr.files import write_atomic
from islr.synth.clip import Footage, Take, film
from islr.synth.corpus import Written, every_take, left_handed, manifest_row
from islr.synth.coverage import coverage
from islr.synth.lexicon import Sign, write_lexicon
from islr.synth.options import SynthOptions
from islr.synth.sheet import SHEET_COLUMNS, SHEET_ROWS, SheetCell

LEXICON = "lexicon.csv"


@dataclass(frozen=True)
class IsolatedSigns:
    """Every sign by every signer, `reps` times."""

    options: SynthOptions
    signs: tuple[Sign, ...]

    def takes(self) -> list[Take]:
        return every_take(self.options, len(self.signs))

    def name(self, take: Take) -> str:
        return f"{self.options.prefix()}-{take.item:04d}-{take.signer:02d}-{take.rep:02d}"

    def film(self, take: Take) -> Footage:
        options = self.options
        return film(self.signs[take.item], take, options.seed, options.size, options.rates(), options.difficulty)

    def write_lists(self, out: Path, takes: Sequence[Take], written: Sequence[Written]) -> list[str]:
        write_lexicon(out / LEXICON, self.signs)
        index = json.dumps(self._wlasl(takes, written), indent=1, ensure_ascii=False) + "\n"
        write_atomic(out / "wlasl.json", index)
        return [LEXICON, "wlasl.json"]

    def _wlasl(self, takes: Sequence[Take], written: Sequence[Written]) -> list[dict[str, Any]]:
        """Return the corpus in WLASL v0.3's schema."""
        entries: list[dict[str, Any]] = [{"gloss": sign.entry_id, "instances": []} for sign in self.signs]
        for take, clip in zip(takes, written, strict=True):
            instances = entries[take.item]["instances"]
            instances.append(
                {
                    "bbox": list(clip.box),
                    "fps": 25,  # WLASL's constant: the rate frame_start and frame_end refer to
                    "frame_end": -1,
                    "frame_start": 1,
                    "instance_id": len(instances),
                    "signer_id": self.options.signer_id(take.signer),
                    "source": self.options.title(),
                    "split": self.options.split_of(take.signer),
                    "url": f"synth:{clip.name}",
                    "variation_id": 0,
                    "video_id": clip.name,
                }
            )
        return entries

    def clips(self, takes: Sequence[Take], written: Sequence[Written]) -> tuple[Clip, ...]:
        form_of = forms(self.signs)
        rows = []
        for take, clip in zip(takes, written, strict=True):
            sign = self.signs[take.item]
            form = form_of[sign.phonology()]
            more = {"gloss": sign.entry_id, "form": form, "label": take.item, "variation": "0"}
            rows.append(manifest_row(self.options, take, clip, **more))
        return tuple(rows)

    def classes(self) -> tuple[str, ...]:
        return tuple(sign.entry_id for sign in self.signs)

    def notes(self) -> dict[str, Any]:
        return sign_notes(self.options, self.signs)

    def sheet(self) -> list[list[SheetCell]]:
        """Show the middle of some signs (rows) by some signers (columns)."""
        last = self.options.signers - 1
        columns = np.unique(np.linspace(0, last, min(SHEET_COLUMNS, last + 1)).astype(int)).tolist()
        return [
            [
                SheetCell(self.name(Take(item, signer, 0)), 0.5, sign.entry_id if signer == columns[0] else "")
                for signer in columns
            ]
            for item, sign in enumerate(self.signs[:SHEET_ROWS])
        ]


def forms(signs: tuple[Sign, ...]) -> dict[tuple[str, ...], str]:
    """Return the phonological vector -> the first sign that has it; homophones share a form."""
    return {sign.phonology(): sign.entry_id for sign in reversed(signs)}


def sign_notes(options: SynthOptions, signs: tuple[Sign, ...]) -> dict[str, Any]:
    """Return how the lexicon was rendered, for the manifest of a corpus of signs."""
    covered = coverage(signs)
    return {
        "difficulty": options.difficulty,
        "rendered_in_full": covered.full,
        "rendered_with_fallback": covered.fallback,
        "fallbacks": covered.reasons,
        "left_handed_signers": left_handed(options),
    }
