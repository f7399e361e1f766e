"""Descriptions of the built-in encoders, kept between calls of `islr models` in the user's cache folder."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import islr
from islr.environment import libraries
from islr.files import write_atomic
from islr.models import MODELS
from islr.models.describe import Description, describe
from islr.models.layouts import layouts_of


def cached_descriptions(names: Sequence[str], progress: Callable[[int, int], None]) -> list[Description]:
    """Describe encoders; count those of this package once per state of its source and of the libraries.

    Args:
        names: Registry names. An encoder defined elsewhere is counted at every call: its source is not known here.
        progress: Called with the number of encoders that are described, and of all.
    """
    path, definition = _path(), _definition()
    kept = _read(path, definition)
    missing = [name for name in names if name not in kept]
    found = []
    for name in names:
        found.append(kept[name] if name in kept else describe(name))
        progress(len(found), len(names))
    new = {one.name: one for one in found if one.name in missing and _built_in(one.name)}
    if new:
        encoders = {name: one.to_dict() for name, one in (kept | new).items()}
        with suppress(OSError):  # a home that cannot be written to costs time, nothing else
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({"definition": definition, "encoders": encoders}))
    return [replace(one, layouts=tuple(layouts_of(one.name))) for one in found]


def _path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "islr" / "encoders.json"


def _definition() -> str:
    """Return a hash of what the numbers depend on: every line of this package, and the libraries' versions."""
    root = Path(islr.__file__).parent
    digest = hashlib.sha256(json.dumps(libraries(), sort_keys=True).encode())
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def _built_in(name: str) -> bool:
    build = MODELS.get(name)  # a plug-in's encoder is not among them
    return build is not None and getattr(build, "family", build).__module__.startswith("islr.")


def _read(path: Path, definition: str) -> dict[str, Description]:
    """Return what was counted for this definition; nothing where the file is absent, cut short or of another one."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        known = content["encoders"] if content["definition"] == definition else {}
        lists = {name: {key: tuple(facts[key]) for key in ("inputs", "layouts")} for name, facts in known.items()}
        return {name: Description(**(facts | lists[name])) for name, facts in known.items() if _built_in(name)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
