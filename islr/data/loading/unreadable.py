"""Clips that could not be read: counted, named, and few enough for a run to go on."""

import logging
from collections.abc import Mapping

from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.errors import UserError

_MOST_NAMED = 5

logger = logging.getLogger(__name__)


def unreadable_clips(failed: Mapping[int, str], manifest: Manifest) -> list[str]:
    """Return the id and the reason of each clip that could not be read, from row -> reason."""
    return [f"{manifest.clips[row].clip_id} ({failed[row]})" for row in sorted(failed)]


def check_unreadable(failed: Mapping[int, str], store: ClipStore, what: str) -> None:
    """Refuse to go on when more clips than `data.max_bad` allows could not be read.

    Args:
        failed: Row -> reason.
        store: The clips.
        what: Their use, such as "training".

    Raises:
        UserError: Names the first of them.
    """
    if len(failed) > store.config.max_bad * len(store):
        raise UserError(
            f"{len(failed)} of {len(store)} {what} clips could not be read, more than data.max_bad "
            f"{store.config.max_bad:g} allows: {_named(failed, store.manifest)}; audit the manifest or raise the limit"
        )


def warn_unreadable(failed: Mapping[int, str], manifest: Manifest, what: str, title: str) -> None:
    """Log how many clips could not be read and were left out, and the first of them."""
    if failed:
        logger.warning(
            "%s: %d of %d %s clips could not be read and were left out: %s",
            *(title, len(failed), len(manifest), what, _named(failed, manifest)),
        )


def _named(failed: Mapping[int, str], manifest: Manifest) -> str:
    named = unreadable_clips(failed, manifest)
    return ", ".join(named[:_MOST_NAMED]) + (
        f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    )
