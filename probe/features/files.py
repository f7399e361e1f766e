"""Files of features: the run's cache, and files that other people made."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from islr.errors import UserError
from islr.files import write_atomic
from islr.untrusted.json_files import parse_json
from islr.untrusted.npz_files import DamagedArrays, read_arrays
from probe.features.features import Features

_CLIP_IDS, _FEATURES = "clip_ids", "features"


def cache_key(facts: Mapping[str, Any]) -> str:
    """Return the sha256 of everything features depend on: weights, input, clips, sampling, decoder, pooling."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cached(folder: Path, facts: Mapping[str, Any], make: Callable[[], Features]) -> tuple[Features, str]:
    """Read features from the cache, or compute and write them, atomically.

    Returns:
        The features and their key.
    """
    key = cache_key(facts)
    path = folder / f"{key[:24]}.safetensors"
    if path.is_file():
        return read_features(path), key
    features = make()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"layer.{number}": torch.from_numpy(layer) for number, layer in enumerate(features.layers)}
    about = {
        _CLIP_IDS: json.dumps(features.clip_ids),
        "failed": json.dumps(features.failed),
        "facts": json.dumps(facts),
    }
    write_atomic(path, save(tensors, metadata=about))
    return features, key


def read_features(path: str | Path) -> Features:
    """Read a file of features.

    `.safetensors`: tensors `layer.0`, `layer.1`, ... or one called `features`, and a JSON list `clip_ids` in the
    metadata. `.npz`: the same arrays, and an array of strings `clip_ids`.

    Raises:
        UserError: Not such a file, rows and clip ids differ in number, an id occurs twice, or a value is not
            finite.
    """
    path = Path(path)
    try:
        ids, failed, arrays = _read_arrays(path)
    except KeyError:
        raise UserError(f"{path}: features need '{_CLIP_IDS}', the clip id of each row") from None
    except DamagedArrays as error:
        raise UserError(f"{path}: cannot be read as features ({error.reason})") from error
    except UserError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as features ({error})") from error
    names = [_FEATURES] if _FEATURES in arrays else [f"layer.{number}" for number in range(len(arrays))]
    if not names or any(name not in arrays for name in names):
        raise UserError(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; name arrays layer.0, layer.1, ...")
    if any(arrays[name].dtype.kind not in "fiu" for name in names):
        raise UserError(f"{path}: features are arrays of numbers")
    layers = tuple(np.asarray(arrays[name], dtype=np.float32) for name in names)
    for name, layer in zip(names, layers, strict=True):
        if layer.ndim != 2 or len(layer) != len(ids):
            raise UserError(f"{path}: '{name}' is {list(layer.shape)}, not [{len(ids)} clips, dimensions]")
        if not np.isfinite(layer).all():
            raise UserError(f"{path}: '{name}' holds values that are not finite")
    if len(set(ids)) != len(ids):
        raise UserError(f"{path}: a clip id occurs twice")
    return Features(ids, layers, failed)


def _read_arrays(path: Path) -> tuple[tuple[str, ...], dict[str, str], dict[str, np.ndarray]]:
    """Return clip ids, reasons of failed clips, and all arrays of a file."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ids = parse_json(tuple[str, ...], about[_CLIP_IDS], f"{path}: metadata '{_CLIP_IDS}'")
        return ids, parse_json(dict[str, str], about.get("failed", "{}"), f"{path}: metadata 'failed'"), arrays
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        return tuple(str(clip_id) for clip_id in arrays.pop(_CLIP_IDS)), {}, arrays
    raise UserError(f"{path}: features are a .npz or a .safetensors file")


def is_features_file(path: Path) -> bool:
    """Return whether a file holds features rather than weights."""
    if path.suffix == ".npz":
        return True
    try:
        with safe_open(path, framework="np") as file:
            return _CLIP_IDS in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
