"""What to render: the options of a corpus, checked before any work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from islr.errors import UserError
from islr.synth.difficulty import DIFFICULTIES
from islr.synth.kinematics.actions import ACTIONS
from islr.synth.signer import FRAME_RATES

KINDS = ("isolated", "continuous", "actions")
DEFAULT_SIGNS = 48
_SIGNERS_PER_SEED = 1000  # signer ids of different seeds differ: seed * this + index


@dataclass(frozen=True)
class SynthOptions:
    """What to render.

    Attributes:
        kind: "isolated" clips of one sign, "continuous" ones of many signs, or "actions" of the whole body.
        signs: How many signs (default 48) or actions (default all) there are.
        signers, reps: A clip is made of every sign or action by every signer, `reps` times; of continuous signing
            every signer makes `reps` clips.
        seed: Selects signers, their takes and the built-in lexicon's selection.
        size: Side of the square picture in pixels, even.
        lexicon: csv in ASL-LEX columns; None is the built-in lexicon. The first `signs` rows are used.
        vocabulary: "a" or "b", two built-in ones without a common sign.
        homophones: How many of the built-in signs repeat the form of an earlier one under a name of their own.
        val_signers, test_signers: The last signers belong to test, those before them to val, the others to train.
        fps: Slowest and fastest frame rate among 24, 25, 29.97 and 30.
        workers: Processes; the files do not depend on it.
        difficulty: A preset of `islr.synth.difficulty`.
        name: Name of the corpus in the manifest; "" makes one from kind, vocabulary and seed.
    """

    kind: str = "isolated"
    signs: int | None = None
    signers: int = 10
    reps: int = 2
    seed: int = 0
    size: int = 128
    lexicon: Path | None = None
    vocabulary: str = "a"
    homophones: int = 0
    val_signers: int = 2
    test_signers: int = 2
    fps: tuple[float, float] = (24.0, 30.0)
    workers: int = 1
    difficulty: str = "medium"
    name: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"kind is '{self.kind}'; it must be one of {', '.join(KINDS)}")
        for field in ("items", "signers", "reps", "workers"):
            if getattr(self, field) < 1:
                raise UserError(f"{field.replace('items', 'signs')} is {getattr(self, field)}; it must be at least 1")
        for field in ("seed", "homophones"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} is {getattr(self, field)}; it must not be negative")
        if self.size < 48 or self.size % 2:
            raise UserError(f"size is {self.size}; it must be even and at least 48 pixels")
        if min(self.val_signers, self.test_signers) < 0 or self.val_signers + self.test_signers >= self.signers:
            raise UserError(
                f"val_signers {self.val_signers} and test_signers {self.test_signers} leave none of"
                f" {self.signers} signers to train on"
            )
        if self.difficulty not in DIFFICULTIES:
            raise UserError(f"difficulty is '{self.difficulty}'; it must be one of {', '.join(DIFFICULTIES)}")
        if not self.rates():
            raise UserError(f"fps {self.fps[0]:g} to {self.fps[1]:g} holds none of 24, 25, 29.97, 30")
        self._check_vocabulary()

    def _check_vocabulary(self) -> None:
        if self.kind == "actions":
            if self.items > len(ACTIONS):
                raise UserError(f"signs is {self.signs}, but there are {len(ACTIONS)} actions")
            if self.lexicon is not None:
                raise UserError("kind 'actions' takes no lexicon: its motions have no phonology")
        if self.homophones and (self.lexicon is not None or self.kind == "actions"):
            raise UserError("homophones are made for the built-in lexicon; a lexicon of yours brings its own")
        if self.homophones > self.items // 2:
            raise UserError(f"homophones is {self.homophones}; at most half of {self.items} signs can repeat a form")

    @property
    def items(self) -> int:
        """Return how many signs or actions there are."""
        if self.signs is not None:
            return self.signs
        return len(ACTIONS) if self.kind == "actions" else DEFAULT_SIGNS

    def clips(self) -> Counter[str]:
        """Return how many clips each split gets."""
        each = self.reps if self.kind == "continuous" else self.items * self.reps
        counts: Counter[str] = Counter()
        for signer in range(self.signers):
            counts[self.split_of(signer)] += each
        return counts

    def rates(self) -> tuple[Fraction, ...]:
        """Return the frame rates signers are filmed at."""
        return tuple(rate for rate in FRAME_RATES if self.fps[0] <= float(rate) <= self.fps[1])

    def split_of(self, signer: int) -> str:
        """Return train, val or test, by signer."""
        if signer >= self.signers - self.test_signers:
            return "test"
        return "val" if signer >= self.signers - self.test_signers - self.val_signers else "train"

    def signer_id(self, signer: int) -> int:
        """Return a signer's number, unlike that of any signer of another seed."""
        return self.seed * _SIGNERS_PER_SEED + signer

    def title(self) -> str:
        """Return the corpus's name."""
        signs = "" if self.kind == "actions" else f"-{self.lexicon.stem if self.lexicon else self.vocabulary}"
        return self.name or f"synth{'' if self.kind == 'isolated' else '-' + self.kind}{signs}-{self.seed}"

    def prefix(self) -> str:
        """Return the beginning of clip names, unlike that of any clip of another vocabulary or seed."""
        return f"{'x' if self.lexicon else self.vocabulary}{self.seed}"
