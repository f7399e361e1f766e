"""The metadata of our weights files: json texts, each read by its schema."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from islr.checked_json import parse_json
from islr.config import Config

Stage = dict[str, str]  # recipe, manifest, fingerprint and clips of one training


class ClipsSeen(Config):
    """The clips of one training.

    Attributes:
        recipe: What trained on them.
        manifest: Name of the corpus.
        transductive: Whether unlabelled clips of an evaluation's val or test were declared.
        clips: See `islr.data.audit.clip_digests`.
    """

    recipe: str
    manifest: str
    transductive: bool
    clips: str


def arguments_in(facts: Mapping[str, str], where: object) -> dict[str, Any]:
    """Return the arguments that rebuild the encoder.

    Raises:
        UserError: The metadata is damaged.
    """
    found: dict[str, Any] = parse_json(dict[str, Any], facts.get("arguments", "{}"), f"{where}: metadata 'arguments'")
    return found


def stages_in(facts: Mapping[str, str], where: object) -> list[Stage]:
    """Return the stages of the encoder's training, in order; raises as `arguments_in`."""
    found: list[Stage] = parse_json(list[Stage], facts.get("pretraining", "[]"), f"{where}: metadata 'pretraining'")
    return found


def exposure_in(facts: Mapping[str, str], where: object) -> list[ClipsSeen]:
    """Return the clips of every stage of the encoder's training; raises as `arguments_in`."""
    found: list[ClipsSeen] = parse_json(list[ClipsSeen], facts.get("exposure", "[]"), f"{where}: metadata 'exposure'")
    return found


def exposure_text(seen: Iterable[ClipsSeen]) -> str:
    """Return the text that `exposure_in` reads."""
    return json.dumps([one.model_dump() for one in seen])
