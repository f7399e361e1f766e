"""Clips of whole-body actions, listed as Kinetics lists its videos: labels, and no signing in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from islr.data.manifest import Clip
from islr.files import write_atomic
from islr.synth.clip import Footage, Take, recorded
from islr.synth.corpus import Written, every_take, left_handed, manifest_row
from islr.synth.difficulty import DIFFICULTIES
from islr.synth.drawing.camera import whole_body
from islr.synth.drawing.figure import FigurePainter
from islr.synth.drawing.projection import project_points
from islr.synth.kinematics.actions import ACTIONS
from islr.synth.kinematics.wholebody import act
from islr.synth.options import SynthOptions
from islr.synth.sheet import SHEET_COLUMNS, SheetCell
from islr.synth.signer import clip_camera, clip_quality, clip_style, generator, make_signer

SECONDS = 4  # of every clip; Kinetics' names carry whole seconds
_STREAM = 6  # of random numbers, unlike those of signers and of signed clips


@dataclass(frozen=True)
class Actions:
    """Every action by every person, `reps` times."""

    options: SynthOptions

    def takes(self) -> list[Take]:
        return every_take(self.options, self.options.items)

    def name(self, take: Take) -> str:
        return f"{self._video(take)}_{0:06d}_{SECONDS:06d}"

    def _video(self, take: Take) -> str:
        return f"k{self.options.seed}-{take.item:02d}-{take.signer:02d}-{take.rep:02d}"

    def film(self, take: Take) -> Footage:
        options, preset = self.options, DIFFICULTIES[self.options.difficulty]
        person = make_signer(options.seed, take.signer, options.rates(), preset)
        rng = generator(options.seed, _STREAM, take.item, take.signer, take.rep)
        camera, style = whole_body(clip_camera(person.camera, rng), rng), clip_style(person.style, rng)
        frames = round(SECONDS * person.fps)
        motion = act(ACTIONS[self.classes()[take.item]], person.body, style, float(person.fps), frames, rng)
        still = np.zeros((frames, 3))
        shot = project_points(motion.points, motion.palms, motion.pads, still, camera, options.size)
        pictures = recorded(FigurePainter, shot, person.body, camera, person.look, rng)
        quality = clip_quality(preset, options.seed, _STREAM, take.item, take.signer, take.rep)
        return Footage(shot, pictures, person.fps, quality, legs=True)

    def write_lists(self, out: Path, takes: Sequence[Take], written: Sequence[Written]) -> list[str]:
        lines = ["label,youtube_id,time_start,time_end,split"]
        for take in takes:
            label, split = self.classes()[take.item], self.options.split_of(take.signer)
            lines.append(f"{label},{self._video(take)},0,{SECONDS},{split}")
        write_atomic(out / "kinetics.csv", "\n".join(lines) + "\n")
        return ["kinetics.csv"]

    def clips(self, takes: Sequence[Take], written: Sequence[Written]) -> tuple[Clip, ...]:
        return tuple(
            manifest_row(self.options, take, clip, gloss=self.classes()[take.item], label=take.item)
            for take, clip in zip(takes, written, strict=True)
        )

    def classes(self) -> tuple[str, ...]:
        return tuple(ACTIONS)[: self.options.items]

    def notes(self) -> dict[str, Any]:
        return {"difficulty": self.options.difficulty, "left_handed_signers": left_handed(self.options)}

    def sheet(self) -> list[list[SheetCell]]:
        """Show every action (rows) by one person each at even times (columns)."""
        rows = []
        for item, label in enumerate(self.classes()):
            name = self.name(Take(item, item % self.options.signers, 0))
            shares = np.linspace(0.1, 0.45, SHEET_COLUMNS).tolist()
            rows.append([SheetCell(name, share, label if share == shares[0] else "") for share in shares])
        return rows
