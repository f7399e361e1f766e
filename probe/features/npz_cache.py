"""Cache of results in npz files: each file holds the key of everything its results depend on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from islr.config import Config
from islr.errors import UserError
from islr.files import write_atomic_with
from islr.untrusted.json_files import parse_json
from islr.untrusted.npz_files import read_arrays


class _About(Config):
    """The key of a file, and what lies beside its arrays."""

    key: str
    facts: Any


def work_key(*parts: str) -> str:
    """Return the sha256 of everything that a result depends on."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_npz(path: Path, key: str, arrays: Mapping[str, np.ndarray], facts: Any) -> None:
    """Write arrays and facts (anything JSON can hold) to one npz file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = np.array(json.dumps({"key": key, "facts": facts}))
    write_atomic_with(path, lambda file: np.savez_compressed(file, about=about, **arrays))  # type: ignore[arg-type]


def read_npz(path: Path, key: str) -> tuple[dict[str, np.ndarray], Any] | None:
    """Return the arrays and facts written under `key`, or None where the file is absent or has another key.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        stored = read_arrays(path)
        about: _About = parse_json(_About, str(stored.pop("about", "")), str(path))
    except UserError as error:
        raise UserError(f"{error}; delete the file, it is a cache") from error
    return (stored, about.facts) if about.key == key else None
