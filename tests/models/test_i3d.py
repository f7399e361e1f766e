"""I3D: its layouts, its padding, parity with WLASL's."""

import re
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.encoder_clips import random_clip
from support.oracle_helpers import oracle_entry
from support.originals import randomised, unfilled
from torch import Tensor

from islr.errors import UserError
from islr.models import create_model, to_input
from islr.models.convnets.i3d import pad_same
from islr.models.layouts import LAYOUTS, detect_layout, layouts_of, load_layout

I3D_PARITY = 1e-4  # absolute over the largest value; nine blocks in fp32


def test_i3d_files_never_load_by_guessing() -> None:
    state = {f"module.{name}": value for name, value in create_model("i3d_tiny").state_dict().items()}
    with pytest.raises(
        UserError, match=r"several layouts \(bsl1k-i3d, kinetics-i3d, wlasl-i3d\); name one with --from"
    ):
        detect_layout(state, "i3d_tiny", "file")
    assert layouts_of("i3d_r50") == ["pytorchvideo"]
    white = torch.tensor([255, 128, 0], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    pixels = {}
    for name in layouts_of("i3d_tiny"):
        spec = create_model("i3d_tiny", **LAYOUTS[name].arguments(state)).input_spec
        pixels[name] = [round(value, 2) for value in to_input(white, spec).flatten().tolist()]
    assert pixels == {"wlasl-i3d": [-1.0, 0.0, 1.0], "kinetics-i3d": [1.0, 0.0, -1.0], "bsl1k-i3d": [0.5, 0.0, -0.5]}


def test_i3d_files_load_with_wrapper_s_names_and_without_counters() -> None:
    source = randomised(create_model("i3d_tiny"))
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    state |= {"logits.conv3d.weight": torch.zeros(7, 256, 1, 1, 1), "logits.conv3d.bias": torch.zeros(7)}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    ours = create_model("i3d_tiny")
    left = load_layout(ours, wrapped, LAYOUTS["bsl1k-i3d"], "file").left
    assert set(left) == {"logits.conv3d.weight", "logits.conv3d.bias"}
    clip = random_clip(ours.input_spec)
    assert torch.equal(ours.eval()(clip), source(clip))
    del wrapped["module.Mixed_4c.b1b.bn.running_mean"]
    with pytest.raises(UserError, match=r"lacks tensors of the encoder: Mixed_4c\.b1b\.bn\.running_mean"):
        load_layout(ours, wrapped, LAYOUTS["bsl1k-i3d"], "file")


@pytest.mark.parametrize("kernel", [(2, 2, 2), (3, 3, 3), (7, 7, 7), (1, 3, 3)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2)])
def test_padding_is_tensorflow_s(kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
    for size in ((8, 7, 6), (5, 1, 3)):
        result = F.max_pool3d(pad_same(torch.zeros(1, 1, *size), kernel, stride), kernel, stride)
        assert list(result.shape[2:]) == [-(-length // step) for length, step in zip(size, stride, strict=True)]
    assert pad_same(torch.ones(1, 1, 1, 1, 4), (1, 1, 3), (1, 1, 2)).flatten().tolist() == [1, 1, 1, 1, 0]
    assert pad_same(torch.ones(1, 1, 1, 1, 3), (1, 1, 3), (1, 1, 2)).flatten().tolist() == [0, 1, 1, 1, 0]


def test_i3d_refuses_unknown_pixels() -> None:
    with pytest.raises(UserError, match="channels='gbr' is unknown; it is one of rgb, bgr"):
        create_model("i3d_tiny", channels="gbr")
    with pytest.raises(UserError, match="normalisation='unit' is unknown; it is one of imagenet"):
        create_model("i3d_tiny", normalisation="unit")


def rule_weights(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The index's rule: each tensor from a generator seeded by its name."""
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if name.endswith("running_var"):
            uniform = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            weights[name] = torch.rand(shape, generator=uniform) + 0.5
        elif len(shape) > 1:
            weights[name] = noise * (2 / shape[1:].numel()) ** 0.5
        else:
            weights[name] = 1 + 0.1 * noise if name.endswith(".weight") else 0.1 * noise
    return weights


@pytest.mark.oracle
def test_i3d_is_wlasl_s(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "i3d_wlasl.safetensors", "svt_bevt")
    seed, shape = re.search(r"Generator\((\d+)\) rand\(([\d,]+)\)", entry["how"]).groups()
    clip = torch.rand([int(side) for side in shape.split(",")], generator=torch.Generator().manual_seed(int(seed)))
    encoder = unfilled(lambda: create_model("i3d", frames=clip.shape[2], size=clip.shape[3])).eval()
    classes = entry["params"]["num_classes"]
    shapes = {"logits.conv3d.weight": torch.Size([classes, encoder.dim, 1, 1, 1])}
    shapes |= {"logits.conv3d.bias": torch.Size([classes])}
    shapes |= {name: value.shape for name, value in encoder.state_dict().items()}
    assert list(shapes)[: len(entry["state_keys_first"])] == entry["state_keys_first"]
    assert list(shapes)[-len(entry["state_keys_last"]) :] == entry["state_keys_last"]
    floating = {name: size for name, size in shapes.items() if not name.endswith("num_batches_tracked")}
    head = load_layout(encoder, rule_weights(floating), LAYOUTS["wlasl-i3d"], "file").left

    maps: dict[str, Tensor] = {}
    for name, module in encoder.named_children():
        module.register_forward_hook(lambda module, inputs, output, name=name: maps.update({name: output}))
    with torch.no_grad():
        encoder(clip * 2 - 1)
        windows = F.avg_pool3d(maps["Mixed_5c"], (2, 7, 7), stride=1)
        logits = F.conv3d(windows, head["logits.conv3d.weight"], head["logits.conv3d.bias"])
    assert maps.keys() == entry["endpoint_shapes"].keys()
    for name, found in maps.items():
        assert list(found.shape) == entry["endpoint_shapes"][name]
        stat = torch.stack([found.mean(), found.std(), found.abs().max()])
        assert ((stat - tensors[f"stat.{name}"]).abs() / tensors[f"stat.{name}"]).max() < I3D_PARITY
        assert (found.flatten()[:8] - tensors[f"head8.{name}"]).abs().max() < I3D_PARITY
    assert (logits.flatten(2) - tensors["logits"]).abs().max() < I3D_PARITY
    parameters = sum(value.numel() for value in encoder.parameters())
    assert parameters + 400 * encoder.dim + 400 == entry["n_params_400"]
