"""Pictures of recipes: input, masked input, target and prediction."""

import cv2
import numpy as np

from islr.reporting.document import text
from islr.reporting.document.blocks import Block, Notice, Picture, Section
from islr.reporting.findings.grid import cell_label, regime_order
from islr.reporting.gather import Gathered
from islr.reporting.run_files import ReportedRun
from islr.untrusted.npz_files import read_arrays

_TILE = 112  # height in pixels of one picture of a recipe; smaller ones are enlarged by whole factors


_MOST_PICTURES = 8  # pictures of one panel


LOSSLESS = 101  # quality of WebP; above 100 means lossless


PHOTO = 85  # quality of WebP
_WEBP_SIDE = 16383  # pixels that the format has room for


def section(gathered: Gathered) -> Section | None:
    """Return the pictures of each recipe; of a grid one seed of each cell, its other regimes folded."""
    runs: dict[object, ReportedRun] = {}
    for run in gathered.runs:
        if run.pictures is not None:
            runs.setdefault(run.place or run.label, run)
    regimes = regime_order([run.place[1] for run in runs.values() if run.place])
    last = {run.place[0]: regimes.index(run.place[1]) for run in runs.values() if run.place}
    for run in runs.values():
        if run.place:
            last[run.place[0]] = max(last[run.place[0]], regimes.index(run.place[1]))
    blocks: list[Block] = []
    for run in sorted(
        runs.values(), key=lambda run: (run.place[0], -regimes.index(run.place[1])) if run.place else ("", 0)
    ):
        assert run.pictures is not None
        try:
            rows = tuple((name, _strip(panel)) for name, panel in read_arrays(run.pictures).items())
        except (OSError, ValueError) as error:
            blocks.append(Notice(f"The pictures of {run.label} cannot be read ({error}).", "warning"))
            continue
        title = cell_label(run.place) if run.place else run.name
        folded = run.place is not None and regimes.index(run.place[1]) < last[run.place[0]]
        names = text.enumerate_words([name for name, _ in rows])
        caption = f"{title}: {names}. Each column is one clip the recipe was trained on"
        if any("HOG" in name for name, _ in rows):
            caption += (
                ", at the moment when most of it is hidden. Strokes run along edges and fade where the frame has "
                "no contrast; in the prediction, cells that were visible are dim"
            )
        caption += "."
        blocks.append(Picture(caption, rows, pixelated=True, about=title, folded=title if folded else ""))
    if not blocks:
        return None
    lead = "The input of a recipe, what is masked, and what the recipe predicts in its place."
    return Section("pictures", "Masking and reconstruction", tuple(blocks), lead)


def _strip(panel: np.ndarray) -> bytes:
    """Pictures uint8 [N, H, W, 3] side by side as one WebP, enlarged by a whole factor when small."""
    if panel.ndim == 3:
        panel = panel[None]
    if panel.ndim != 4 or panel.shape[-1] != 3 or panel.dtype != np.uint8 or not panel.size:
        raise ValueError(f"a panel is uint8 [N, H, W, 3], this one is {panel.dtype} {list(panel.shape)}")
    panel = panel[:_MOST_PICTURES]
    factor = max(1, round(_TILE / panel.shape[1]))
    panel = panel.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = np.full((panel.shape[1], max(2, factor), 3), 255, np.uint8)
    alpha = np.zeros((*gap.shape[:2], 1), np.uint8)
    opaque = np.full((*panel.shape[1:3], 1), 255, np.uint8)
    tiles: list[np.ndarray] = []
    for i, picture in enumerate(panel):
        tiles += [np.concatenate([gap, alpha], 2)] if i else []
        tiles.append(np.concatenate([picture, opaque], 2))
    quality = LOSSLESS if factor > 1 else PHOTO
    return webp(cv2.cvtColor(np.concatenate(tiles, 1), cv2.COLOR_RGBA2BGRA), quality)


def webp(picture: np.ndarray, quality: int) -> bytes:
    """A BGR or BGRA picture as WebP, which keeps pages small and every current browser shows."""
    if max(picture.shape[:2]) > _WEBP_SIDE:
        raise ValueError(f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels is too large for a page")
    ok, encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert ok
    return encoded.tobytes()
