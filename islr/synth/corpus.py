"""What every kind of corpus tells the writer: its clips, how to film them, and the lists that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from islr.data.manifest import Clip
from islr.synth.clip import Footage, Take
from islr.synth.options import SynthOptions
from islr.synth.sheet import SheetCell
from islr.synth.signer import make_signer


@dataclass(frozen=True)
class Written:
    """What was measured of a clip on disk."""

    name: str
    frames: int
    fps: float
    box: tuple[int, int, int, int]


class SynthCorpus(Protocol):
    """One kind of corpus with its options; it travels to worker processes."""

    @property
    def options(self) -> SynthOptions:
        """Return the options of the corpus."""

    def takes(self) -> list[Take]:
        """Return all clips in the order of the manifest."""

    def name(self, take: Take) -> str:
        """Return a clip's file name without suffix."""

    def film(self, take: Take) -> Footage:
        """Perform one clip."""

    def write_lists(self, out: Path, takes: Sequence[Take], written: Sequence[Written]) -> list[str]:
        """Write the lists of clips in the published format the kind stands for; their names."""

    def clips(self, takes: Sequence[Take], written: Sequence[Written]) -> tuple[Clip, ...]:
        """Return the rows of the manifest."""

    def classes(self) -> tuple[str, ...]:
        """Return the class name of each label."""

    def notes(self) -> dict[str, Any]:
        """Return the manifest's notes on how the corpus was made."""

    def sheet(self) -> list[list[SheetCell]]:
        """Return the rows of the sample sheet."""


def every_take(options: SynthOptions, items: int) -> list[Take]:
    """Return every item by every signer, `reps` times."""
    return [
        Take(item, signer, rep)
        for item in range(items)
        for signer in range(options.signers)
        for rep in range(options.reps)
    ]


def manifest_row(options: SynthOptions, take: Take, written: Written, **more: Any) -> Clip:
    """Return the columns of the manifest that all kinds fill alike."""
    return Clip(
        clip_id=written.name,
        path=f"videos/{written.name}.mp4",
        split=options.split_of(take.signer),
        signer=str(options.signer_id(take.signer)),
        source=options.title(),
        frames=written.frames,
        fps=written.fps,
        width=options.size,
        height=options.size,
        pose=f"poses/{written.name}.npz",
        **more,
    )


def left_handed(options: SynthOptions) -> list[str]:
    """Return the ids of the left-handed signers."""
    signers = range(options.signers)
    return [str(options.signer_id(one)) for one in signers if make_signer(options.seed, one).style.left_handed]
