"""MViT's attention and blocks beside torchvision's, the published sizes, and what loads into what."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.encoder_clips import random_clip
from support.zero_gradient import zero_gradient
from torch import Tensor
from torchvision.models.video.mvit import MultiscaleAttention, MViT, mvit_v1_b, mvit_v2_s

from islr.errors import UserError
from islr.models import Classifier, create_model
from islr.models.layouts import LAYOUTS, detect_layout, load_layout, rename
from islr.models.layouts.slowfast import to_slowfast_name
from islr.models.mvit.blocks import PooledAttention
from islr.models.mvit.depthwise import depthwise_conv3d
from islr.models.mvit.encoder import MViTEncoder
from islr.models.mvit.sizes import MViTSizes


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 3, 1)])
@pytest.mark.parametrize("size", [(7, 8), (12, 11)], ids=["small", "large"])
def test_depthwise_gradients_are_the_convolution_s(size: tuple[int, int], stride: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    ours = depthwise_conv3d(x, weight, stride)
    theirs = F.conv3d(x, weight, stride=stride, padding=1, groups=5)
    grad = torch.randn_like(theirs)
    assert torch.allclose(ours, theirs)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad), strict=True
    ):
        assert torch.allclose(mine, reference)


@pytest.mark.parametrize(
    ("grid", "stride_q", "stride_kv"),
    [
        ((2, 8, 8), 1, 2),
        ((2, 8, 8), 2, 2),
        ((3, 6, 6), 2, 1),
        ((1, 4, 4), 1, 1),
        ((2, 7, 7), 1, 2),  # 7 queries over 4 keys: distances of 1.75, truncated
        ((2, 7, 7), 2, 1),
        ((2, 7, 7), 2, 2),  # a table of 5 distances for 7, interpolated
        ((2, 10, 10), 1, 4),
        ((2, 9, 9), 2, 8),
    ],
)
def test_folded_attention_is_torchvision_s_explicit_one(
    grid: tuple[int, int, int], stride_q: int, stride_kv: int
) -> None:
    torch.manual_seed(0)
    ours, theirs = attention_pair(grid, stride_q, stride_kv)
    x = torch.randn(3, 1 + math.prod(grid), 12)
    (result, pooled), (expected, expected_grid) = ours(x, grid), theirs(x, grid)
    assert pooled == expected_grid
    assert torch.allclose(result, expected, atol=1e-5, rtol=1e-4)
    weight = torch.randn_like(result)
    for module, output in ((ours, result), (theirs, expected)):
        (output * weight).sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
    for name, parameter in ours.named_parameters():
        if not name.endswith("pool_k.norm_act.0.bias"):  # its true gradient is zero
            reference = theirs.get_parameter(name).grad
            assert (parameter.grad - reference).abs().max() < 1e-4 * reference.abs().max(), name


def test_folded_attention_rounds_no_worse_in_half_precision() -> None:
    """Also where the scores are large: one-hot codes are exact, and products are added up in float32."""
    torch.manual_seed(0)
    grid = (2, 8, 8)
    ours, theirs = attention_pair(grid, 1, 2)
    for scale in (1.0, 30.0):
        for module in (ours, theirs):
            for name in ("pool_q", "pool_k"):
                torch.nn.init.constant_(module.get_submodule(name).norm_act[0].weight, scale)
        x = torch.randn(3, 1 + math.prod(grid), 12)
        with torch.no_grad():
            exact = ours(x, grid)[0]
            with torch.autocast("cpu", torch.bfloat16):
                errors = [(module(x, grid)[0].float() - exact).norm() / exact.norm() for module in (ours, theirs)]
        assert errors[0] < max(1.2 * errors[1], 0.02)


def attention_pair(
    grid: tuple[int, int, int], stride_q: int, stride_kv: int
) -> tuple[PooledAttention, MultiscaleAttention]:
    """Ours and torchvision's with the same random weights: 12 wide, two heads."""
    arguments: dict = {
        "num_heads": 2,
        "kernel_q": [3, 3, 3],
        "kernel_kv": [3, 3, 3],
        "stride_q": [1, stride_q, stride_q],
        "stride_kv": [1, stride_kv, stride_kv],
        "residual_pool": True,
        "residual_with_cls_embed": False,
        "rel_pos_embed": True,
    }
    theirs = MultiscaleAttention(list(grid), 12, 12, **arguments)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours = PooledAttention(list(grid), 12, 12, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def small_encoder(size: int, widen_in: str, pool: str) -> MViTEncoder:
    return MViTEncoder(
        MViTSizes(
            depth=4,
            embed_dim=8,
            dim_mul={1: 2, 3: 2},
            head_mul={1: 2, 3: 2},
            q_stride={1: 2, 3: 2},
            kv_stride=4,
        ),
        frames=4,
        size=size,
        widen_in=widen_in,  # type: ignore[arg-type]
        pool=pool,  # type: ignore[arg-type]
    ).eval()


# 40 pixels are 10, 5 and 3 tokens: strides that do not divide the grid.
@pytest.mark.parametrize(("widen_in", "size"), [("attention", 32), ("attention", 40), ("mlp", 40)])
def test_whole_encoder_is_torchvision_s_class(widen_in: str, size: int) -> None:
    torch.manual_seed(0)
    pool = "class" if widen_in == "attention" else "mean"
    encoder = small_encoder(size, widen_in, pool)
    theirs = torchvision_mvit(encoder, size, widen_in)
    state = theirs.state_dict()
    layout = detect_layout(state, "mvit_s", "file")
    assert layout.name == "torchvision-mvit"
    assert layout.arguments(state) == {"widen_in": widen_in, "pool": pool}
    left = load_layout(encoder, state, layout, "file").left
    assert left.keys() == {"norm.weight", "norm.bias", "head.1.weight", "head.1.bias"}
    clip = random_clip(encoder.input_spec)
    last: list[Tensor] = []
    theirs.blocks[-1].register_forward_hook(lambda module, inputs, output: last.append(output[0]))
    theirs(clip)
    ours, expected = encoder.forward_tokens(clip)[-1].tokens, last[0]
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    for tokens in (ours, expected):
        tokens.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        if not name.endswith(zero_gradient(encoder)):
            reference = theirs.get_parameter(name).grad
            assert (parameter.grad - reference).norm() < 1e-4 * reference.norm(), name


def torchvision_mvit(encoder: MViTEncoder, size: int, widen_in: str) -> MViT:
    """torchvision's class with the encoder's blocks, and weights none of which is at a special value."""
    theirs = MViT(
        spatial_size=(size, size),
        temporal_size=encoder.input_spec.frames,
        block_setting=encoder.block_settings,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=widen_in == "attention",
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    return theirs


def test_mvit_s_has_the_names_and_shapes_of_torchvision_s_mvit_v2_s() -> None:
    with torch.device("meta"):
        theirs = mvit_v2_s().state_dict()
        ours = create_model("mvit_s", widen_in="attention").state_dict()
    tensors = rename(theirs, LAYOUTS["torchvision-mvit"], "file").tensors
    assert {name: value.shape for name, value in tensors.items()} == {name: value.shape for name, value in ours.items()}


def test_mvit_v1_is_of_no_known_layout() -> None:
    with torch.device("meta"):
        state = mvit_v1_b().state_dict()
    with pytest.raises(UserError, match="of no layout known for mvit_b"):
        detect_layout(state, "mvit_b", "file")


def _on_meta(name: str, **arguments: Any) -> MViTEncoder:
    with torch.device("meta"):
        return create_model(name, **arguments)


def _parameters(encoder: MViTEncoder) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Classifier(encoder, 400).parameters())


def _layout_arguments(encoder: MViTEncoder) -> dict[str, Any]:
    state = {to_slowfast_name(name): value for name, value in encoder.state_dict().items()}
    return LAYOUTS["slowfast"].arguments(state)


def test_published_sizes_have_the_published_parameters() -> None:
    # Published: 34.5 (torchvision: 34,537,744), 51.2 and, of MaskFeat's S, 36 million.
    assert _parameters(_on_meta("mvit_s", widen_in="attention")) == 34_537_744
    assert _parameters(_on_meta("mvit_s")) == 36_475_120
    assert _parameters(_on_meta("mvit_b")) == 51_230_128


def test_published_large_sizes() -> None:
    # Of MaskFeat's L, 218 million are published. The supervised L is printed as 217.6, the count of MaskFeat's form;
    # the form its config and file have is 213 (MMAction2).
    maskfeat = _on_meta("mvit_l")
    assert _parameters(maskfeat) == 217_578_064
    assert "normalisation" not in _layout_arguments(maskfeat)
    supervised = _on_meta("mvit_l", frames=40, size=312, widen_in="attention", normalisation="imagenet")
    assert _parameters(supervised) == 213_390_112
    assert [supervised.grids[block] for block in (1, 2, 8, 44)] == [(20, n, n) for n in (78, 39, 20, 10)]
    assert len(supervised.blocks[9].attn.rel_pos_h) == 2 * 19 - 1  # as in the published file, whose grids round down
    assert supervised.input_spec.mean == (0.485, 0.456, 0.406)
    assert _layout_arguments(supervised) == {"widen_in": "attention", "pool": "class", "normalisation": "imagenet"}


@pytest.mark.parametrize(
    ("kept", "old", "new", "changed"),
    [
        (
            {"frames": 2},
            {"last_stride": 1},
            {"last_stride": 2},
            {f"15.rel_pos_{axis}": (27, 13) for axis in "hw"},
        ),
        ({"size": 32}, {"frames": 16}, {"frames": 8}, {f"{block}.rel_pos_t": (15, 7) for block in range(16)}),
    ],
    ids=["fine-tuning", "frames"],
)
def test_position_tables_are_resized_on_load_as_slowfast_does(kept: dict, old: dict, new: dict, changed: dict) -> None:
    with torch.device("meta"):
        source, target = create_model("mvit_s", **kept, **old), create_model("mvit_s", **kept, **new)
    for encoder in (source, target):
        encoder.to_empty(device="cpu")
        for name, parameter in encoder.named_parameters():
            torch.nn.init.normal_(parameter) if "rel_pos" in name else torch.nn.init.zeros_(parameter)
    state = {to_slowfast_name(name): value for name, value in source.state_dict().items()}
    load_layout(target, state, LAYOUTS["slowfast"], "file")
    found, stored = {}, source.state_dict()
    for name, value in target.state_dict().items():
        before = stored[name]
        if value.shape == before.shape:
            assert torch.equal(value, before), name
        else:
            found[name.removeprefix("blocks.").replace(".attn", "")] = (len(before), len(value))
            line = F.interpolate(before.t()[None], size=len(value), mode="linear", align_corners=False)
            assert torch.equal(value, line[0].t()), name
    assert found == changed


def test_a_class_token_leaves_the_last_block_s_positions_unused() -> None:
    encoder = create_model("mvit_tiny", pool="class")
    encoder(random_clip(encoder.input_spec)).square().sum().backward()
    unused = {name for name, parameter in encoder.named_parameters() if parameter.grad.abs().max() == 0}
    last = {"rel_pos_t", "rel_pos_h", "rel_pos_w", "pool_q.pool.weight"}
    assert unused == {f"blocks.5.attn.{name}" for name in last}
    assert all(name.endswith(zero_gradient(encoder)) for name in unused)
