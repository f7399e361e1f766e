"""Token features of one block, for the attentive probe.

They are stored after layer norm without parameters, the first step of that probe: every value then lies within the
square root of the width, so that half precision suffices. Size: clips x tokens x width x 2 bytes.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from islr.errors import UserError
from islr.files import write_atomic
from islr.models import Encoder, to_input
from probe.features.features import gather, rows_of
from probe.features.files import cache_key


@dataclass(frozen=True)
class Tokens:
    """Tokens of clips, float16 `[N, T, D]`, of block `block`; clips that could not be read are absent."""

    clip_ids: tuple[str, ...]
    values: np.ndarray
    block: int

    def aligned(self, clip_ids: np.ndarray) -> "Tokens":
        """Return the tokens in the order of `clip_ids`, zeros where there are none."""
        rows = rows_of(clip_ids, self.clip_ids)
        values = np.zeros((len(clip_ids), *self.values.shape[1:]), np.float16)
        values[rows >= 0] = self.values[rows[rows >= 0]]
        return Tokens(tuple(clip_ids.tolist()), values, self.block)


def encode_tokens(
    encoder: Encoder,
    batches: Iterable[Mapping[str, Any]],
    clip_ids: list[str],
    *,
    block: int | None,
    max_gigabytes: float,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> Tokens:
    """Compute the tokens of one block; other arguments as `probe.features.features.encode`.

    Raises:
        UserError: There is no such block, the tokens would take more than `max_gigabytes`, or what `encode` raises.
    """
    last = len(encoder.layer_dims) - 1
    chosen = last if block is None else block
    if not 0 <= chosen <= last:
        raise UserError(f"analyses.attentive.block: there is no block {chosen}; the encoder's blocks are 0..{last}")
    mode, shape = encoder.training, (0, 0)
    encoder.to(device).eval()

    def flat(batch: Mapping[str, Any]) -> list[Tensor]:
        nonlocal shape
        tokens = encoder.forward_layers(to_input(batch["clip"].to(device), encoder.input_spec))[chosen].float()
        shape = (tokens.shape[1], tokens.shape[2])
        size = len(clip_ids) * shape[0] * shape[1] * 2 / 1e9
        if size > max_gigabytes:
            raise UserError(
                f"attentive: tokens of block {chosen} of {len(clip_ids)} clips take {size:.1f} GB, more than"
                f" analyses.attentive.max_gigabytes={max_gigabytes:g}; choose a block with fewer tokens, or raise it"
            )
        return [functional.layer_norm(tokens, tokens.shape[-1:]).half().flatten(1)]

    try:
        features = gather(flat, batches, clip_ids, progress)
    finally:
        encoder.train(mode)
    return Tokens(features.clip_ids, features.layers[0].reshape(-1, *shape), chosen)


def cached_tokens(folder: Path, facts: Mapping[str, Any], make: Callable[[], Tokens]) -> Tokens:
    """Read tokens from the cache, or compute and write them, atomically."""
    path = folder / f"{cache_key(facts)[:24]}.tokens.safetensors"
    if path.is_file():
        with safe_open(path, framework="np") as file:
            about = file.metadata()
            return Tokens(tuple(json.loads(about["clip_ids"])), file.get_tensor("tokens"), int(about["block"]))
    tokens = make()
    folder.mkdir(parents=True, exist_ok=True)
    about = {"clip_ids": json.dumps(tokens.clip_ids), "block": str(tokens.block), "facts": json.dumps(facts)}
    write_atomic(path, save({"tokens": torch.from_numpy(tokens.values)}, metadata=about))
    return tokens
