"""Rendered corpora without pictures, for tests of poses, lists and labels: drawing is most of a corpus's time."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from islr.synth.drawing.projection import Projection


def _black(painter: object, shot: Projection, *_: object) -> Iterator[np.ndarray]:
    return iter(np.zeros((len(shot.points), shot.size, shot.size, 3), dtype=np.uint8))


@contextmanager
def undrawn(module: str) -> Iterator[None]:
    """Frames that a module of `islr.synth` films in this process are black inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"islr.synth.{module}.recorded", _black)
        yield
