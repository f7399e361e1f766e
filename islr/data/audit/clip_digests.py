"""Digests of the clips that weights were trained on, kept in the weights' file, and the clips of a corpus among them.

A clip is the same when it has one id in corpora of one name, or when its file has the same bytes and the time ranges
overlap, as in `islr.data.audit.duplicates`.
"""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np

from islr.data.manifest import OK, Clip, Manifest
from islr.data.packs.format import is_packed
from islr.data.packs.reader import origin_of
from islr.errors import UserError
from islr.files import file_sha256

# Of one clip: name of its corpus and id, then bytes and content of its file (0 = no file), and seconds in it.
_ENTRY = np.dtype([("id", "<u8"), ("bytes", "<u8"), ("content", "<u8"), ("start", "<f4"), ("end", "<f4")])
_READERS = 8  # files hashed at a time


def digest_clips(corpora: Iterable[Manifest], part: int = 0, parts: int = 1) -> bytes:
    """Return the digests of the readable clips of some corpora, or of one of `parts` equal parts of them.

    Every file is read once, so that ranks had better share the work.
    """
    entries = []
    for corpus in corpora:
        clips = [clip for clip in corpus if clip.status == OK][part::parts]
        files = sorted({path for clip in clips if not is_packed(path := corpus.path_of(clip))})
        with ThreadPoolExecutor(_READERS) as pool:
            hashes = dict(zip(files, pool.map(_sha256_or_none, files), strict=True))
        for clip in clips:
            path = corpus.path_of(clip)
            if is_packed(path):
                origin = origin_of(path)
                entries.append(_entry(corpus, clip, origin.bytes, origin.sha256, origin.start, origin.end))
            else:
                digest = hashes[path]
                size = path.stat().st_size if digest else 0
                entries.append(_entry(corpus, clip, size, digest, clip.start, clip.end))
    return np.array(entries, _ENTRY).tobytes()


def digests_text(parts: Iterable[bytes]) -> str:
    """Return all parts of `digest_clips` as one text, which does not depend on their number."""
    return base64.b64encode(np.sort(np.frombuffer(b"".join(parts), _ENTRY)).tobytes()).decode("ascii")


def clips_among(digests: str, corpus: Manifest) -> list[str]:
    """Return the ids of a corpus's clips that are among digested ones; reads the files whose size occurs there.

    Raises:
        UserError: `digests` was not made by `digests_text`.
    """
    try:
        known = np.frombuffer(base64.b64decode(digests, validate=True), _ENTRY)
    except (ValueError, binascii.Error) as error:
        raise UserError(f"digests of training clips are damaged ({error})") from error
    ids, sizes = set(known["id"].tolist()), set(known["bytes"].tolist())
    ranges: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for entry in known[known["content"] != 0]:
        ranges[int(entry["content"])].append((float(entry["start"]), float(entry["end"])))
    hashes: dict[Path, int] = {}

    def is_known(clip: Clip) -> bool:
        if _id(corpus, clip) in ids:
            return True
        path, start, end = corpus.path_of(clip), clip.start, clip.end
        if is_packed(path):
            origin = origin_of(path)
            content, start, end = _number(origin.sha256), origin.start, origin.end
        else:
            if path not in hashes:
                plausible = path.is_file() and path.stat().st_size in sizes
                hashes[path] = _number(_sha256_or_none(path)) if plausible else 0
            content = hashes[path]
        first, last = _range(start, end)
        return any(first < other_last and other_first < last for other_first, other_last in ranges.get(content, ()))

    return [clip.clip_id for clip in corpus if is_known(clip)]


def _entry(
    corpus: Manifest, clip: Clip, size: int, digest: str | None, start: float | None, end: float | None
) -> tuple[int, int, int, float, float]:
    return (_id(corpus, clip), size, _number(digest), *_range(start, end))


def _id(corpus: Manifest, clip: Clip) -> int:
    return int.from_bytes(sha256(f"{corpus.name}\t{clip.clip_id}".encode()).digest()[:8], "little")


def _number(digest: str | None) -> int:
    return int((digest or "0")[:16], 16)


def _range(start: float | None, end: float | None) -> tuple[float, float]:
    # As stored, so that the ends of neighbouring clips stay equal.
    return float(np.float32(start or 0.0)), float(np.float32(np.inf if end is None else end))


def _sha256_or_none(path: Path) -> str | None:
    try:
        return file_sha256(path) if path.is_file() else None
    except OSError:
        return None
