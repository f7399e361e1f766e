"""Results in one file beside the key of everything they depend on; under another key they are as good as absent."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from islr.files import write_atomic_with


def keep(path: Path, key: str, arrays: Mapping[str, np.ndarray], facts: Any) -> None:
    """Write arrays and facts (anything json can hold) as one npz, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = np.array(json.dumps({"key": key, "facts": facts}))
    write_atomic_with(path, lambda file: np.savez_compressed(file, about=about, **arrays))  # type: ignore[arg-type]


def kept(path: Path, key: str) -> tuple[dict[str, np.ndarray], Any] | None:
    """The arrays and facts that were kept under the same key, or None."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        if about["key"] != key:
            return None
        return {name: stored[name] for name in stored.files if name != "about"}, about["facts"]
