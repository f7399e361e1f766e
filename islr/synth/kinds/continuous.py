"""Long unlabelled clips of many signs, listed as OpenASL lists its videos.

`openasl.tsv` and `boxes.json` are what a user of the corpus sees. What is signed when is in `glosses.json`, which no
training reads: it is there to check a segmentation or a spotter against.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.manifest import Clip
from islr.files import write_atomic
from islr.synth.clip import Footage, Take, recorded
from islr.synth.corpus import Written, manifest_row
from islr.synth.difficulty import DIFFICULTIES
from islr.synth.drawing.projection import project_performance
from islr.synth.drawing.render import Painter
from islr.synth.kinds.isolated import LEXICON, sign_notes
from islr.synth.kinematics.motion import perform_sequence
from islr.synth.lexicon import Sign, write_lexicon
from islr.synth.options import SynthOptions
from islr.synth.sheet import SHEET_COLUMNS, SHEET_ROWS, SheetCell
from islr.synth.signer import clip_camera, clip_quality, clip_style, generator, make_signer

SECONDS = (10.0, 30.0)  # shortest and longest clip
_STREAM = 5  # of random numbers, unlike those of signers and of clips of one sign
_LONGEST_SIGN = 2.0  # seconds: by so much a clip may end earlier than drawn
_SHORTEST_SIGN = 0.5  # seconds with the way to it, at tempo 1: no sign in a row is shorter


@dataclass(frozen=True)
class ContinuousSigning:
    """`reps` clips by every signer, of signs in random order."""

    options: SynthOptions
    signs: tuple[Sign, ...]

    def takes(self) -> list[Take]:
        return [Take(0, signer, rep) for signer in range(self.options.signers) for rep in range(self.options.reps)]

    def name(self, take: Take) -> str:
        return f"c{self.options.prefix()}-{take.signer:02d}-{take.rep:03d}"

    def film(self, take: Take) -> Footage:
        options, preset = self.options, DIFFICULTIES[self.options.difficulty]
        signer = make_signer(options.seed, take.signer, options.rates(), preset)
        rng = generator(options.seed, _STREAM, take.signer, take.rep)
        camera, style = clip_camera(signer.camera, rng), clip_style(signer.style, rng)
        seconds = rng.uniform(SECONDS[0] + _LONGEST_SIGN, SECONDS[1])
        order = self._order(math.ceil(seconds / _SHORTEST_SIGN * style.tempo), rng)
        fps = float(signer.fps)
        performed = (self.signs[item] for item in order)
        performance, parts = perform_sequence(performed, signer.body, style, fps, rng, longest=seconds * fps)
        spans = [(item, first, last) for item, (first, last) in zip(order, parts, strict=False)]
        shot = project_performance(performance, signer.body, camera, options.size)
        pictures = recorded(Painter, shot, signer.body, camera, signer.look, rng)
        quality = clip_quality(preset, options.seed, _STREAM, take.signer, take.rep)
        return Footage(shot, pictures, signer.fps, quality, spans=tuple(spans))

    def _order(self, count: int, rng: np.random.Generator) -> list[int]:
        """Return signs in random order, none twice in a row."""
        order: list[int] = []
        while len(order) < count:
            shuffled = rng.permutation(len(self.signs)).tolist()
            if order and len(shuffled) > 1 and shuffled[0] == order[-1]:
                shuffled.append(shuffled.pop(0))
            order += shuffled
        return order[:count]

    def write_lists(self, out: Path, takes: Sequence[Take], written: Sequence[Written]) -> list[str]:
        write_lexicon(out / LEXICON, self.signs)
        lines, boxes, glosses = ["vid\tyid\tstart\tend\tsplit"], {}, {}
        for take, clip in zip(takes, written, strict=True):
            end = clip.frames / clip.fps
            lines.append(f"{clip.name}\t{clip.name}\t0.000\t{end:.3f}\t{self.options.split_of(take.signer)}")
            boxes[clip.name] = [round(value / self.options.size, 4) for value in clip.box]
            glosses[clip.name] = [
                {
                    "gloss": self.signs[item].entry_id,
                    "start": round(first / clip.fps, 3),
                    "end": round((last + 1) / clip.fps, 3),
                }
                for item, first, last in self.film(take).spans
            ]
        write_atomic(out / "openasl.tsv", "\n".join(lines) + "\n")
        write_atomic(out / "boxes.json", json.dumps(boxes, indent=1) + "\n")
        write_atomic(out / "glosses.json", json.dumps(glosses, indent=1) + "\n")
        return [LEXICON, "openasl.tsv", "boxes.json", "glosses.json"]

    def clips(self, takes: Sequence[Take], written: Sequence[Written]) -> tuple[Clip, ...]:
        rows = []
        for take, clip in zip(takes, written, strict=True):
            x0, y0, x1, y1 = (float(value) for value in clip.box)
            rows.append(manifest_row(self.options, take, clip, box=(x0, y0, x1, y1)))
        return tuple(rows)

    def classes(self) -> tuple[str, ...]:
        return ()

    def notes(self) -> dict[str, Any]:
        return sign_notes(self.options, self.signs)

    def sheet(self) -> list[list[SheetCell]]:
        """Show some clips (rows) at even times (columns)."""
        shares = np.linspace(0.05, 0.95, SHEET_COLUMNS).tolist()
        return [[SheetCell(self.name(take), share) for share in shares] for take in self.takes()[:SHEET_ROWS]]
