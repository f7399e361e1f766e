"""Frames of clips as small pictures, where the videos can still be read."""

from pathlib import Path

import cv2
import numpy as np

from islr.data.manifest import OK, Clip, Manifest
from islr.data.packs.format import is_packed
from islr.data.packs.reader import PackReader
from islr.data.video.decode import DecodeError, decode
from islr.errors import UserError
from islr.reporting.document.blocks import Tile
from islr.reporting.gather import Gathered

FRAMES = 5  # pictures of one clip
_HEIGHT = 112  # pixels of one picture
_WIDEST = 2.0  # width over height of one picture; wider ones lose their sides
_QUALITY = 72
_MOST_BYTES = 600_000  # of all thumbnails of a report


class ClipPictures:
    """Finds the manifests that the runs name and shows their clips within a budget of bytes."""

    def __init__(self, gathered: Gathered) -> None:
        named = [Path(path) for run in gathered.runs for path in _manifests(run.config)]
        beside = [corpus.folder / "manifest.csv" for corpus in gathered.corpora]
        self._paths = list(dict.fromkeys(path for path in (*beside, *named)))
        self._loaded: dict[Path, Manifest | None] = {}
        self._by_corpus: dict[str, Manifest] = {}
        self._left = _MOST_BYTES

    def problem(self, corpus: str, fingerprint: str, split: str) -> str:
        """Why no clip of a scored split can be shown; empty where its manifest was found."""
        found = next(
            (
                manifest
                for path in self._paths
                if (manifest := self._load(path)) is not None and manifest.fingerprint(split) == fingerprint
            ),
            None,
        )
        if found is None:
            return (
                f"the manifest of {corpus} was not found, neither among the given folders nor where the runs read it."
            )
        self._by_corpus[corpus] = found
        return ""

    def example(self, corpus: str, sign: str, like: str) -> str:
        """A clip of a sign, by the signer of the clip `like` where there is one; empty where there is none."""
        manifest = self._by_corpus[corpus]
        signer = next((clip.signer for clip in manifest if clip.clip_id == like), "")
        clips = [clip for clip in manifest if clip.status == OK and _sign(manifest, clip) == sign]
        clips.sort(key=lambda clip: (clip.signer != signer, clip.split != "train", clip.clip_id))
        return clips[0].clip_id if clips else ""

    def tile(self, corpus: str, clip_id: str, label: str) -> Tile:
        """The frames of a clip side by side, or the reason why there are none."""
        manifest = self._by_corpus[corpus]
        clip = next((clip for clip in manifest if clip.clip_id == clip_id), None)
        if clip is None:
            return Tile(label, b"", "no clip of it was found")
        words = f"{label} ({clip.clip_id}{f', signer {clip.signer}' if clip.signer else ''})"
        if self._left <= 0:
            return Tile(words, b"", "left out: the pictures would make the page too large")
        try:
            picture = _strip(manifest, clip)
        except (DecodeError, UserError) as error:
            return Tile(words, b"", str(error).replace(str(manifest.root), "").lstrip("/"))
        self._left -= len(picture)
        return Tile(words, picture)

    def _load(self, path: Path) -> Manifest | None:
        if path not in self._loaded:
            try:
                self._loaded[path] = Manifest.load(path) if path.is_file() else None
            except UserError:  # a corpus that was changed since is not the one that was scored
                self._loaded[path] = None
        return self._loaded[path]


def _manifests(config: dict[str, object]) -> list[str]:
    data = config.get("data")
    named = data.get("manifest") if isinstance(data, dict) else None
    return [named] if isinstance(named, str) else [str(path) for path in named] if isinstance(named, list) else []


def _sign(manifest: Manifest, clip: Clip) -> str:
    if clip.label is not None and clip.label < len(manifest.classes):
        return manifest.classes[clip.label]
    return clip.gloss


def _strip(manifest: Manifest, clip: Clip) -> bytes:
    """Frames spread over the clip, without its first and last moments, side by side as WebP.

    Raises:
        DecodeError: The file is not there or cannot be decoded.
    """
    count = clip.frames or 1
    indices = np.linspace(0, count - 1, FRAMES + 2).round().astype(int)[1:-1]
    where = manifest.path_of(clip)
    if is_packed(clip.path):
        frames = PackReader(manifest.root).frames(where, clip.clip_id, indices)
    else:
        frames = decode(where, indices, start=clip.start, end=clip.end, root=manifest.root)  # [F, H, W, 3]
    if clip.box is not None:
        x0, y0, x1, y1 = (max(0, round(side)) for side in clip.box)
        frames = frames[:, y0:y1, x0:x1] if x1 > x0 and y1 > y0 else frames
    height, width = frames.shape[1:3]
    keep = min(width, round(height * _WIDEST))
    left = (width - keep) // 2
    size = (max(1, round(keep * _HEIGHT / height)), _HEIGHT)
    shown = [cv2.resize(frame[:, left : left + keep], size, interpolation=cv2.INTER_AREA) for frame in frames]
    row = cv2.cvtColor(np.concatenate(shown, 1), cv2.COLOR_RGB2BGR)
    ok, encoded = cv2.imencode(".webp", row, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    assert ok
    return encoded.tobytes()
