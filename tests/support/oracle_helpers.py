"""How the recorded oracles were made, and how far from them we are.

The seed procedures of the index, encoders from its overrides, and `Differences`, which `oracle_table.py` prints.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from islr.models import Classifier
from islr.models.layouts import LAYOUTS, load_layout
from islr.models.layouts.slowfast import to_slowfast_name
from islr.models.mvit.encoder import MViTEncoder
from islr.models.mvit.sizes import MViTSizes
from islr.models.swin import SwinEncoder
from islr.training.optim import OptimConfig, parameter_groups


def oracle_file(oracles: Path, name: str, folder: str = "video") -> Path:
    """`folder/name`, or skip the test when that file was not delivered."""
    path = oracles / folder / name
    if not path.is_file():
        pytest.skip(f"oracle file {path} is absent")
    return path


def oracle_entry(oracles: Path, name: str, folder: str = "video") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The index entry and the tensors of one oracle, a safetensors file of `video` or `svt_bevt`."""
    index = json.loads(oracle_file(oracles, "index.json", folder).read_text())
    entries = index.get("files") or {entry["file"]: entry for entry in index.values() if isinstance(entry, dict)}
    return entries[name], load_file(oracle_file(oracles, name, folder))


def state_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that an oracle stores beside its inputs and outputs."""
    return {name.removeprefix("sd."): value for name, value in tensors.items() if name.startswith("sd.")}


def random_input(seed: int, shape: list[int]) -> Tensor:
    """Standard normal float32 from numpy's frozen legacy stream."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


@contextmanager
def uninitialised() -> Iterator[None]:
    """Modules that are built inside the block are not initialised: all their parameters will be filled."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_uniform_"):
            patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
        yield


def fill_parameters(parameters: dict[str, Tensor], seed: int) -> None:
    """The index's `fill_params`, on parameters under SlowFast's names and shapes, in place."""
    stream = np.random.RandomState(seed)
    for name in sorted(parameters):
        target = parameters[name]
        values = torch.from_numpy(stream.standard_normal(tuple(target.shape)).astype(np.float32))
        if target.ndim == 1:
            values = 1 + 0.1 * values if name.endswith(".weight") else 0.05 * values
        elif target.ndim == 5 and "pool_" in name:
            values = values * np.float32((1 / 27) ** 0.5)
        elif "rel_pos" in name:
            values = 0.3 * values
        elif name.endswith("token") or "pos_embed" in name:
            values = 0.5 * values
        else:
            values = values * np.float32((1 / target[0].numel()) ** 0.5)
        with torch.no_grad():
            target.copy_(values.view_as(target))


def parameter_sha256(parameters: dict[str, Tensor]) -> str:
    """The index's digest: float32 bytes of all parameters in sorted-name order."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(parameters[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def slowfast_parameters(encoder: MViTEncoder, beside: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The encoder's parameters, and those beside it, under SlowFast's names and shapes; shared memory."""
    parameters = {to_slowfast_name(name): value.data for name, value in encoder.named_parameters()}
    parameters["cls_token"] = parameters["cls_token"].view(1, 1, -1)
    return parameters | {name: value.data for name, value in beside.items()}


def encoder_from_overrides(overrides: list[str], **arguments: Any) -> MViTEncoder:
    """The small MViT that a list of SlowFast overrides describes."""
    pairs = dict(zip(overrides[::2], overrides[1::2], strict=False))

    def by_block(key: str) -> dict[int, float]:
        return {int(block): factor for block, factor in json.loads(pairs[key])}

    strides = {int(block): (t, h, w) for block, t, h, w in json.loads(pairs["MVIT.POOL_Q_STRIDE"])}
    assert all(t == 1 and h == w for t, h, w in strides.values())
    _, kv_stride, _ = json.loads(pairs["MVIT.POOL_KV_STRIDE_ADAPTIVE"])
    return MViTEncoder(
        MViTSizes(
            depth=int(pairs["MVIT.DEPTH"]),
            embed_dim=int(pairs["MVIT.EMBED_DIM"]),
            dim_mul=by_block("MVIT.DIM_MUL"),
            head_mul=by_block("MVIT.HEAD_MUL"),
            q_stride={block: h for block, (_, h, _) in strides.items()},
            kv_stride=kv_stride,
        ),
        frames=int(pairs["DATA.NUM_FRAMES"]),
        size=int(pairs["DATA.TRAIN_CROP_SIZE"]),
        **arguments,
    )


Groups = dict[tuple[int, float], set[str]]  # (layers below the head, weight decay) -> parameter names


def recorded_groups(oracles: Path, name: str) -> tuple[Groups, OptimConfig]:
    """Parameter groups of `optim.json`, and the options that they were made with, read off them."""
    recorded = json.loads(oracle_file(oracles, "optim.json").read_text())[name]
    scales = sorted({group["lr_scale"] for group in recorded}, reverse=True)
    groups: Groups = {}
    for group in recorded:
        key = (round(math.log(group["lr_scale"]) / math.log(scales[1])), group["weight_decay"])
        assert group["lr_scale"] == pytest.approx(scales[1] ** key[0], rel=1e-6)
        groups.setdefault(key, set()).update(group["params"])
    decay = max(group["weight_decay"] for group in recorded)
    return groups, OptimConfig(lr=1.0, epochs=1, batch_size=1, layer_decay=scales[1], weight_decay=decay)


def decay_groups(model: Classifier, optim: OptimConfig) -> Groups:
    """The model's parameter groups, keyed as `recorded_groups`."""
    groups: Groups = {}
    for group in parameter_groups(model, optim, model.layer_of, model.num_layers):
        below = round(math.log(group["lr_scale"]) / math.log(optim.layer_decay))
        assert group["lr_scale"] == pytest.approx(optim.layer_decay**below)
        groups.setdefault((below, group["weight_decay"]), set()).update(group["names"])
    return groups


def sine_state(parameters: list[tuple[str, list[int], str]], kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that a list of `pose` describes: sines of a phase by name, and what was "kept"."""
    state = {}
    for name, shape, rule in parameters:
        if rule == "kept":
            state[name] = kept[name].reshape(shape)
            continue
        phase = 0.37 * np.arange(int(np.prod(shape))) + zlib.crc32(name.encode()) % 1000
        around_one = name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight"))
        values = 1 + 0.1 * np.sin(phase) if around_one else 0.05 * np.sin(phase)
        state[name] = torch.from_numpy(values.astype(np.float32)).reshape(shape)
    return state


@dataclass(frozen=True)
class Difference:
    """How far one of our numbers is from the recorded one.

    Attributes:
        test: Function that compared them, and its parameters.
        what: Loss, target, gradients, ...
        largest: Largest absolute difference; of several tensors, of all.
        relative: Norm of the difference over the norm of what is recorded; of several tensors, the largest.
        limit: What it may be, in words.
    """

    test: str
    what: str
    largest: float
    relative: float
    limit: str


class Differences:
    """Compares with recorded numbers, fails where they are too far off, and keeps how far they were."""

    def __init__(self, test: str) -> None:
        self.test = test
        self.rows: list[Difference] = []

    def within(
        self, what: str, ours: Tensor | float, theirs: Tensor | float, *, absolute: float = 0.0, relative: float = 0.0
    ) -> None:
        """Compare one tensor or number; exactly one limit counts, and 0 for both asks for equality."""
        self.all_within(what, {what: (ours, theirs)}, absolute=absolute, relative=relative)

    def all_within(
        self,
        what: str,
        pairs: Mapping[str, tuple[Tensor | float, Tensor | float]],
        *,
        absolute: float = 0.0,
        relative: float = 0.0,
    ) -> None:
        """As `within`, for each pair (ours, recorded) of several."""
        assert pairs, f"nothing to compare for {what}"
        assert not (absolute and relative)
        worst = [0.0, 0.0]
        for name, (ours, theirs) in pairs.items():
            mine, wanted = (torch.as_tensor(value).detach().double() for value in (ours, theirs))
            apart = mine - wanted.view_as(mine)
            norm, largest = float(apart.norm()), float(apart.abs().max())
            share = norm / float(wanted.norm()) if norm else 0.0
            worst = [max(worst[0], largest), max(worst[1], share)]
            found, limit = (share, relative) if relative else (largest, absolute)
            assert found < limit or found == limit == 0.0, f"{what}, {name}: {found:.3g} is not below {limit:g}"
        words = f"relative {relative:g}" if relative else f"{absolute:g}" if absolute else "equal"
        self.rows.append(Difference(self.test, what, worst[0], worst[1], words))


DIFFERENCES = pytest.StashKey[list[tuple[str, Differences]]]()  # in a session's config: file of tests -> what it found


def swin_encoder(params: dict, state: dict[str, Tensor], layout: str) -> SwinEncoder:
    """The encoder of a recorded model, loaded; its clips need not be of the size it is built for."""
    assert params["patch_size"] == [2, 4, 4]
    shape = {name: params[name] for name in ("depths", "embed_dim", "num_heads")}
    encoder = SwinEncoder(frames=2, size=32, window=params["window_size"], **shape)
    load_layout(encoder, state, LAYOUTS[layout], "oracle")
    return encoder.eval()
