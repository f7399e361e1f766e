"""Frozen features of clips, computed layer by layer from an encoder or straight from a view."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from islr.errors import UserError
from islr.models import Encoder, to_input

# Tokens `[B, N, D]` -> one vector per clip.
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens.amax(1),
    "mean_std": lambda tokens: torch.cat([tokens.mean(1), tokens.std(1, correction=0)], 1),
}


@dataclass(frozen=True)
class Features:
    """Vectors of clips.

    Attributes:
        clip_ids: The clips that have features.
        layers: float32 `[N, D_l]` of each layer, from the input side on.
        failed: Clip id -> why the clip could not be read; such clips are never replaced by others.
    """

    clip_ids: tuple[str, ...]
    layers: tuple[np.ndarray, ...]
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.layers, "no layer"
        assert all(len(layer) == len(self.clip_ids) for layer in self.layers), "one vector per clip"

    def aligned(self, clip_ids: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return layers in the order of `clip_ids`, zeros where there are no features, and which clips have some."""
        rows = rows_of(clip_ids, self.clip_ids)
        present = rows >= 0
        return [np.where(present[:, None], layer[rows], np.float32(0)) for layer in self.layers], present


def rows_of(requested: np.ndarray, clip_ids: Sequence[str]) -> np.ndarray:
    """Return the position in `clip_ids` of each requested clip, -1 where it is absent."""
    place = {clip_id: row for row, clip_id in enumerate(clip_ids)}
    return np.array([place.get(clip_id, -1) for clip_id in requested.tolist()], dtype=np.int64)


def encode(
    encoder: Encoder,
    batches: Iterable[Mapping[str, Any]],
    clip_ids: list[str],
    *,
    pool: str = "mean",
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Compute the features of every block of an encoder, in eval mode and float32, without gradients.

    Args:
        encoder: The encoder; its weights stay as they are.
        batches: Batches with `clip`, `index` into `clip_ids`, and `failed`.
        clip_ids: Clip id of each row.
        pool: Key of `POOLS`.
        device: Where the encoder runs.
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
    """Collect `layers_of(batch)`, a list of `[B, D_l]`, over batches; arguments and errors as `encode`."""
    ids: list[str] = []
    parts: list[list[np.ndarray]] = []
    failed: dict[str, str] = {}
    with torch.inference_mode():
        for batch in batches:
            failed.update({clip_ids[row]: reason for row, reason in batch.get("failed", ())})
            names = [clip_ids[row] for row in batch["index"].tolist()]
            if names:
                vectors = [layer.cpu().numpy() for layer in layers_of(batch)]
                _check_finite(vectors, names)
                ids += names
                parts.append(vectors)
            progress(len(ids) + len(failed))
    if not parts:
        clip, reason = next(iter(failed.items()), ("", "there are none"))
        raise UserError(f"none of the clips could be read (first: {clip} {reason})")
    layers = tuple(np.concatenate([part[layer] for part in parts]) for layer in range(len(parts[0])))
    return Features(tuple(ids), layers, failed)


def _check_finite(layers: Sequence[np.ndarray], clip_ids: Sequence[str]) -> None:
    for layer, vectors in enumerate(layers):
        broken = ~np.isfinite(vectors).all(1)
        if broken.any():
            clip = clip_ids[int(broken.argmax())]
            raise UserError(f"clip {clip}: layer {layer} gives features that are not finite")
