"""MViT: its attention against torchvision's, its options, parity with SlowFast."""

from pathlib import Path

import pytest
import torch
from support.encoder_clips import random_clip
from support.oracle_helpers import (
    decay_groups,
    encoder_from_overrides,
    fill_parameters,
    oracle_entry,
    parameter_sha256,
    random_input,
    recorded_groups,
    slowfast_parameters,
    state_of,
    uninitialised,
)
from torch import Tensor

from islr.errors import UserError
from islr.models import Classifier, create_model
from islr.models.layouts import LAYOUTS, detect_layout, load_layout, rename
from islr.models.layouts.slowfast import to_slowfast_name
from islr.models.mvit.encoder import MViTEncoder
from islr.models.mvit.sizes import MViTSizes
from islr.models.weights import export_encoder, load_encoder

PARITY = 1e-4  # absolute, after up to 16 blocks in fp32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 70}, "size=70 .* multiple of 4 from 32 on, such as 68 or 72"),
        ({"size": 72}, None),
        ({"size": 28}, "size=28 .* such as 32 or 36"),
        ({"size": 28, "last_stride": 1}, None),
        ({"frames": 7}, "frames=7 .* multiple of 2"),
        ({"size": 0}, "size=0 .* multiple of 4"),
        ({"pool": "max"}, "pool='max' is unknown"),
    ],
)
def test_sizes_must_fit_the_strides(arguments: dict, message: str | None) -> None:
    if message is None:
        assert create_model("mvit_tiny", **arguments).input_spec.size == arguments["size"]
    else:
        with pytest.raises(UserError, match=message):
            create_model("mvit_tiny", **arguments)


def test_pretraining_form_loads_into_fine_tuning_form(tmp_path: Path) -> None:
    pretrained = create_model("mvit_tiny", last_stride=1)
    export_encoder(pretrained, tmp_path / "encoder.safetensors", {})
    tuned = load_encoder(tmp_path / "encoder.safetensors", last_stride=2)
    changed = {
        name.split(".", 2)[2]
        for name, value in tuned.state_dict().items()
        if value.shape != pretrained.state_dict()[name].shape or not torch.equal(value, pretrained.state_dict()[name])
    }
    assert changed <= {"attn.rel_pos_h", "attn.rel_pos_w"}
    assert tuned.grids[-1] == (4, 2, 2)
    assert pretrained.grids[-1] == (4, 4, 4)


def test_hidden_patches_are_replaced_before_the_first_block() -> None:
    encoder = create_model("mvit_tiny", last_stride=1).eval()
    clip = random_clip(encoder.input_spec)
    everything = torch.ones(2, 4, 4, 4, dtype=torch.bool)
    token = torch.randn(encoder.conv_proj.out_channels)
    hidden = encoder.forward_tokens(clip, everything, token)[-1].tokens
    assert torch.allclose(hidden[0], hidden[1], atol=1e-5)
    nothing = encoder.forward_tokens(clip, ~everything, token)[-1].tokens
    assert torch.equal(nothing, encoder.forward_tokens(clip)[-1].tokens)


def small_mvit(**options: object) -> MViTEncoder:
    shape: dict = {"frames": 4, "size": 32}
    return MViTEncoder(MViTSizes(2, 8, dim_mul={}, head_mul={}, q_stride={}, kv_stride=2), **(shape | options)).eval()


def test_initialisation_is_slowfast_s_or_torchvision_s() -> None:
    slowfast, plain = (create_model("mvit_tiny", init=init) for init in ("slowfast", "torchvision"))
    for encoder, bias in ((slowfast, 0.02), (plain, 0.0)):
        assert (encoder.blocks[1].attn.qkv.bias == bias).all()
        assert (encoder.blocks[1].norm1.bias == bias).all()
        assert encoder.blocks[1].mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert slowfast.conv_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    even = create_model("mvit_tiny", init="fan_in").blocks[1]
    x = torch.randn(1000, even.attn.embed_dim)
    assert even.attn.qkv(x).std().item() == pytest.approx(1, rel=0.15)


# Parity with SlowFast -------------------------------------------------------------------------------------------------


def head_logits(model: Classifier, beside: dict[str, Tensor], clip: Tensor) -> Tensor:
    with torch.no_grad():
        model.norm.weight.copy_(beside["norm.weight"])
        model.norm.bias.copy_(beside["norm.bias"])
        model.head.weight.copy_(beside["head.projection.weight"])
        model.head.bias.copy_(beside["head.projection.bias"])
        return model.eval()(clip)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mvit_tiny_ft_meanpool.safetensors", {"widen_in": "mlp", "pool": "mean"}),
        ("mvit_tiny_sup_cls.safetensors", {"widen_in": "attention", "pool": "class"}),
    ],
)
def test_small_mvit_is_slowfast_s(oracles: Path, name: str, form: dict) -> None:
    entry, tensors = oracle_entry(oracles, name)
    encoder = encoder_from_overrides(entry["overrides"], **form)
    state = state_of(tensors)
    assert detect_layout(state, "mvit_tiny", name).arguments(state) == form
    beside = load_layout(encoder, state, LAYOUTS["slowfast"], name).left
    for index, output in enumerate(encoder.eval().forward_tokens(tensors["x"])):
        assert list(output.grid) == tensors[f"thw{index}"].tolist()
        assert (output.tokens - tensors[f"block{index}"]).abs().max() < PARITY
    model = Classifier(encoder, len(tensors["logits"][0]))
    assert (head_logits(model, beside, tensors["x"]) - tensors["logits"]).abs().max() < 1e-5
    assert sum(parameter.numel() for parameter in model.parameters()) == entry["params"]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mvitv2_s_maskfeat_ft.safetensors", {"widen_in": "mlp", "pool": "mean"}),
        ("mvitv2_s_supervised.safetensors", {"widen_in": "attention", "pool": "class"}),
    ],
)
def test_mvit_s_is_slowfast_s(oracles: Path, name: str, form: dict) -> None:
    entry, tensors = oracle_entry(oracles, name)
    _, _, frames, size, _ = entry["x_shape"]
    with uninitialised():
        model = Classifier(create_model("mvit_s", frames=frames, size=size, **form), tensors["logits"].shape[1])
    parameters = slowfast_parameters(
        model.encoder,
        {
            "norm.weight": model.norm.weight,
            "norm.bias": model.norm.bias,
            "head.projection.weight": model.head.weight,
            "head.projection.bias": model.head.bias,
        },
    )
    fill_parameters(parameters, entry["param_seed"])
    assert parameter_sha256(parameters) == entry["sha256"]
    assert sum(parameter.numel() for parameter in model.parameters()) == entry["params"]
    clip = random_input(entry["x_seed"], entry["x_shape"])
    with torch.no_grad():
        outputs = model.eval().encoder.forward_tokens(clip)
        last = outputs[-1]
        pooled = last.patches.mean(dim=1) if form["pool"] == "mean" else last.tokens[:, 0]
        logits = model.head(model.norm(pooled))
    for index, output in enumerate(outputs):
        assert list(output.grid) == tensors[f"thw{index}"].tolist()
        recorded = tensors[f"block{index}.tok_first8"]
        assert (output.patches[:, : recorded.shape[1]] - recorded).abs().max() < PARITY
        assert (output.tokens[:, 0] - tensors[f"block{index}.cls"]).abs().max() < PARITY
        assert (output.patches.mean(dim=1) - tensors[f"block{index}.mean"]).abs().max() < PARITY
    assert (logits - tensors["logits"]).abs().max() < 1e-5


@pytest.mark.oracle
def test_groups_are_slowfast_s(oracles: Path) -> None:
    theirs, optim = recorded_groups(oracles, "slowfast_ft_S")
    with torch.device("meta"):
        model = Classifier(create_model("mvit_s"), 400)
    ours = {
        key: {to_slowfast_name(name.removeprefix("encoder.")).replace("head.", "head.projection.") for name in names}
        for key, names in decay_groups(model, optim).items()
    }
    assert ours == theirs


def test_slowfast_names_map_both_ways() -> None:
    encoder = MViTEncoder(
        MViTSizes(2, 8, dim_mul={1: 2}, head_mul={1: 2}, q_stride={1: 2}, kv_stride=2), frames=4, size=32
    )
    state = encoder.state_dict()
    renamed = rename({to_slowfast_name(name): value for name, value in state.items()}, LAYOUTS["slowfast"], "file")
    assert renamed.tensors.keys() == state.keys()
    assert not renamed.left
    with pytest.raises(UserError, match=r"layout slowfast has no tensors of these names: blocks\.0\.gamma"):
        rename({"blocks.0.gamma": torch.zeros(1)}, LAYOUTS["slowfast"], "file")
