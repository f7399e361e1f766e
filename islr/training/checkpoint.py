"""Checkpoints that are whole or absent: written to a temporary file, synced, renamed; checked by sha256 when read.

A checkpoint file is a `torch.save` archive followed by a footer with the sha256 of the archive. The previous one is
kept as `previous.ckpt`. Only tensors and plain values are loaded (`weights_only=True`); there is no other way.
"""

import hashlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from islr.errors import UserError, one_line
from islr.files import write_atomic

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_FOOTER = b"\nsha256:"
_FOOTER_SIZE = len(_FOOTER) + 64

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` as the folder's last checkpoint and keep the previous one.

    Raises:
        OSError: The disk is full or not writable; the earlier checkpoints are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    last = folder / LAST
    footer = _FOOTER + hashlib.sha256(content).hexdigest().encode()
    if last.exists():
        # A hard link keeps `last` under its own name until the new file replaces it.
        kept = folder / f".{PREVIOUS}.{os.getpid()}"
        kept.unlink(missing_ok=True)
        os.link(last, kept)
        os.replace(kept, folder / PREVIOUS)
    write_atomic(last, content + footer)
    return last


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint file.

    Raises:
        UserError: The file is cut, altered, or not one of ours (a pickle, for instance).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    body, footer = content[:-_FOOTER_SIZE], content[-_FOOTER_SIZE:]
    if not footer.startswith(_FOOTER):
        raise UserError(f"checkpoint {path} is cut short or was not written by this program; it is not loaded")
    if hashlib.sha256(body).hexdigest().encode() != footer[len(_FOOTER) :]:
        raise UserError(f"checkpoint {path} does not match its sha256; the file is damaged")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types here; all mean that the content is not plain weights
        raise UserError(f"checkpoint {path} holds something else than weights and plain values; refused") from error
    return state


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Name the folder where a checkpoint's content does not fit the run that is restored within.

    Raises:
        UserError: Says what does not fit.
    """
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"the checkpoint in {folder} does not fit this run: {one_line(error)}") from error


def latest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest whole checkpoint of a run folder, or None when there is none.

    Raises:
        UserError: Checkpoints exist and none of them is whole.
    """
    problem: UserError | None = None
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            state = read_checkpoint(folder / name)
        except UserError as error:
            problem = error
            continue
        if problem is not None:
            logger.warning("%s; going on from %s", problem, name)
        return state
    if problem is not None:
        raise problem
    return None
