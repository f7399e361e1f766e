"""Frozen features of clips: of every layer of an encoder, of simple baselines, or from a file somebody
else made.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from islr.errors import UserError
from islr.files import write_atomic
from islr.models import Encoder, to_input

# Tokens `[B, N, D]` -> one vector per clip.
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens.amax(1),
    "mean_std": lambda tokens: torch.cat([tokens.mean(1), tokens.std(1, correction=0)], 1),
}
_CLIP_IDS, _FEATURES = "clip_ids", "features"


@dataclass(frozen=True)
class Features:
    """Vectors of clips.

    Attributes:
        clip_ids: The clips that have features.
        layers: float32 `[N, D_l]` of each layer, from the input side on.
        failed: Clip id -> reason, clips that could not be read; never replaced by others.
    """

    clip_ids: tuple[str, ...]
    layers: tuple[np.ndarray, ...]
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.layers, "no layer"
        assert all(len(layer) == len(self.clip_ids) for layer in self.layers), "one vector per clip"

    def aligned(self, clip_ids: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Layers in the order of `clip_ids`, zeros where there are no features, and which clips have some."""
        place = {clip_id: row for row, clip_id in enumerate(self.clip_ids)}
        rows = np.array([place.get(clip_id, -1) for clip_id in clip_ids.tolist()], dtype=np.int64)
        present = rows >= 0
        return [np.where(present[:, None], layer[rows], np.float32(0)) for layer in self.layers], present


def encode(
    encoder: Encoder,
    batches: Iterable[Mapping[str, Any]],
    clip_ids: list[str],
    *,
    pool: str = "mean",
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Features of every block of an encoder: eval mode, float32, no gradient.

    Args:
        encoder: Its weights are not changed.
        batches: With `clip` (as the data module makes them), `index` into `clip_ids`, and `failed`.
        clip_ids: Clip id of each row.
        pool: Key of `POOLS`.
        device: Where to compute.
        progress: Called with the number of clips done.

    Raises:
        UserError: No clip could be read, or a feature is not finite (the clip is named).
    """
    mode = encoder.training
    encoder.to(device).eval()

    def layers_of(batch: Mapping[str, Any]) -> list[Tensor]:
        clip = to_input(batch["clip"].to(device), encoder.input_spec)
        return [POOLS[pool](tokens.float()) for tokens in encoder.forward_layers(clip)]

    try:
        return gather(layers_of, batches, clip_ids, progress)
    finally:
        encoder.train(mode)


def gather(
    layers_of: Callable[[Mapping[str, Any]], list[Tensor]],
    batches: Iterable[Mapping[str, Any]],
    clip_ids: list[str],
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Collect `layers_of(batch)`, a list of `[B, D_l]` in its dtype, over batches; arguments and errors as `encode`."""
    ids: list[str] = []
    parts: list[list[np.ndarray]] = []
    failed: dict[str, str] = {}
    with torch.inference_mode():
        for batch in batches:
            failed.update({clip_ids[row]: reason for row, reason in batch.get("failed", ())})
            names = [clip_ids[row] for row in batch["index"].tolist()]
            if names:
                vectors = [layer.cpu().numpy() for layer in layers_of(batch)]
                for layer, vector in enumerate(vectors):
                    broken = ~np.isfinite(vector).all(1)
                    if broken.any():
                        clip = names[int(broken.argmax())]
                        raise UserError(f"clip {clip}: layer {layer} gives features that are not finite")
                ids += names
                parts.append(vectors)
            progress(len(ids) + len(failed))
    if not parts:
        some = next(iter(failed.items()), ("", "there are none"))
        raise UserError(f"none of the clips could be read (first: {some[0]} {some[1]})")
    layers = tuple(np.concatenate([part[layer] for part in parts]) for layer in range(len(parts[0])))
    return Features(tuple(ids), layers, failed)


def cache_key(facts: Mapping[str, Any]) -> str:
    """sha256 of everything features depend on: weights, input, clips, sampling, decoder, pooling."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cached(folder: Path, facts: Mapping[str, Any], make: Callable[[], Features]) -> tuple[Features, str]:
    """Features from the cache, or made and put there, whole or not at all.

    Returns:
        The features and their key.
    """
    key = cache_key(facts)
    path = folder / f"{key[:24]}.safetensors"
    if path.is_file():
        return read_features(path), key
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"layer.{number}": torch.from_numpy(layer) for number, layer in enumerate(made.layers)}
    about = {
        _CLIP_IDS: json.dumps(made.clip_ids),
        "failed": json.dumps(made.failed),
        "facts": json.dumps(facts),
    }
    write_atomic(path, save(tensors, metadata=about))
    return made, key


def read_features(path: str | Path) -> Features:
    """Read features from a file of ours or of others.

    `.safetensors`: tensors `layer.0`, `layer.1`, ... or one called `features`, and a json list `clip_ids` in
    the metadata. `.npz`: the same arrays, and an array of strings `clip_ids`.

    Raises:
        UserError: Not such a file, rows and clip ids differ in number, an id occurs twice, or a value is not
            finite.
    """
    path = Path(path)
    failed: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            ids = tuple(json.loads(about[_CLIP_IDS]))
            failed = json.loads(about.get("failed", "{}"))
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            ids = tuple(str(clip_id) for clip_id in arrays.pop(_CLIP_IDS))
        else:
            raise UserError(f"{path}: features are a .npz or a .safetensors file")
    except KeyError:
        raise UserError(f"{path}: features need '{_CLIP_IDS}', the clip id of each row") from None
    except UserError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as features ({error})") from error
    names = [_FEATURES] if _FEATURES in arrays else [f"layer.{number}" for number in range(len(arrays))]
    if not names or any(name not in arrays for name in names):
        raise UserError(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; name arrays layer.0, layer.1, ...")
    layers = tuple(np.asarray(arrays[name], dtype=np.float32) for name in names)
    for name, layer in zip(names, layers, strict=True):
        if layer.ndim != 2 or len(layer) != len(ids):
            raise UserError(f"{path}: '{name}' is {list(layer.shape)}, not [{len(ids)} clips, dimensions]")
        if not np.isfinite(layer).all():
            raise UserError(f"{path}: '{name}' holds values that are not finite")
    if len(set(ids)) != len(ids):
        raise UserError(f"{path}: a clip id occurs twice")
    return Features(ids, layers, failed)


def is_features_file(path: Path) -> bool:
    """Whether a file holds features rather than weights."""
    if path.suffix == ".npz":
        return True
    try:
        with safe_open(path, framework="np") as file:
            return _CLIP_IDS in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
