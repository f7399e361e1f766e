"""Cache of results in npz files: each file holds the key of everything its results depend on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from islr.files import write_atomic_with


def work_key(*parts: str) -> str:
    """Return the sha256 of everything that a result depends on."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_npz(path: Path, key: str, arrays: Mapping[str, np.ndarray], facts: Any) -> None:
    """Write arrays and facts (anything JSON can hold) to one npz file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = np.array(json.dumps({"key": key, "facts": facts}))
    write_atomic_with(path, lambda file: np.savez_compressed(file, about=about, **arrays))  # type: ignore[arg-type]


def read_npz(path: Path, key: str) -> tuple[dict[str, np.ndarray], Any] | None:
    """Return the arrays and facts written under `key`, or None where the file is absent or has another key."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        if about["key"] != key:
            return None
        return {name: stored[name] for name in stored.files if name != "about"}, about["facts"]
