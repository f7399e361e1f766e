"""Convolutional encoders: public layouts against the originals, checkpointing with BatchNorm, sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.encoder_clips import random_clip
from support.originals import head_input, loaded, randomised, unfilled
from torch import nn
from torchvision.models import video

from islr.errors import UserError
from islr.models import Classifier, create_model
from islr.models.convnets.pytorchvideo_nets import ALPHA, X3D, MViTv1, ResNet, SlowFast, factories
from islr.models.layouts import LAYOUTS, detect_layout, load_layout
from islr.models.weights import load_state


@pytest.mark.parametrize(
    ("architecture", "original", "frames"),
    [("r3d_18", video.r3d_18, 5), ("mc3_18", video.mc3_18, 8), ("r2plus1d_18", video.r2plus1d_18, 8)],
)
def test_video_resnets_are_torchvision_s(architecture: str, original: Callable, frames: int) -> None:
    theirs = randomised(unfilled(lambda: original(weights=None)))
    ours = loaded(
        create_model(architecture, frames=frames, size=36), theirs.state_dict(), architecture, "torchvision-resnet"
    )
    clip = random_clip(ours.input_spec, batch=1)
    assert torch.allclose(ours(clip), head_input(theirs, "fc", clip), atol=1e-5, rtol=1e-5)


def test_s3d_is_torchvision_s_and_takes_smaller_clips() -> None:
    theirs = randomised(unfilled(lambda: video.s3d(weights=None)))
    ours = loaded(
        unfilled(lambda: create_model("s3d", frames=6, size=40)), theirs.state_dict(), "s3d", "torchvision-s3d"
    )
    clip = random_clip(ours.input_spec, batch=1)
    with torch.no_grad():
        assert torch.allclose(ours.forward_maps(clip)[-1], theirs.features(clip), atol=1e-5, rtol=1e-5)
        with pytest.raises(RuntimeError):
            theirs(clip)
        assert torch.allclose(ours(clip), theirs.features(clip).mean(dim=(2, 3, 4)), atol=1e-5, rtol=1e-5)


def small_x3d() -> Any:
    settings: dict = {"width_factor": 1.0, "depth_factor": 1.0, "head_dim_out": 32}
    return factories().x3d.create_x3d(input_clip_length=4, input_crop_size=64, head_activation=None, **settings)


def small_csn() -> Any:
    settings: dict = {"model_depth": 50, "stem_dim_out": 4, "stem_pool": nn.MaxPool3d}
    return factories().csn.create_csn(head_pool_kernel_size=(1, 2, 2), **settings)


def small_i3d_r50() -> Any:
    return factories().i3d_r50(pretrained=False, stem_dim_out=4, head_pool_kernel_size=(2, 2, 2))


def small_slowfast() -> Any:
    kernels = ((2, 2, 2), (8, 2, 2))
    return factories().slowfast.create_slowfast(model_depth=18, stem_dim_outs=(16, 2), head_pool_kernel_sizes=kernels)


@pytest.mark.parametrize(
    ("architecture", "net", "build", "frames", "head"),
    [
        ("x3d_s", small_x3d, X3D, 4, "blocks.5.proj"),
        ("csn_r101", small_csn, lambda net, **size: ResNet(net, source="", **size), 8, "blocks.5.proj"),
        ("i3d_r50", small_i3d_r50, lambda net, **size: ResNet(net, source="", **size), 4, "blocks.6.proj"),
        ("slowfast_r50", small_slowfast, SlowFast, 8, "blocks.6.proj"),
    ],
)
def test_residual_networks_are_pytorchvideo_s(
    architecture: str, net: Callable, build: Callable, frames: int, head: str
) -> None:
    theirs = randomised(net())
    ours = loaded(build(net(), frames=frames, size=64), theirs.state_dict(), architecture, "pytorchvideo")
    clip = random_clip(ours.input_spec)
    with torch.no_grad():
        original = head_input(theirs, head, ours.enter(clip))
        assert original.abs().max() > 0.1
        assert torch.allclose(ours(clip), original, atol=1e-5, rtol=1e-4)
        assert [layer.shape[2] for layer in ours.forward_layers(clip)] == ours.layer_dims
        if ours.dim == ours.layer_dims[-1]:
            assert torch.allclose(ours.forward_layers(clip)[-1].mean(dim=1), original, atol=1e-5, rtol=1e-4)


SMALL_MVIT: dict = {
    "depth": 3,
    "patch_embed_dim": 8,
    "embed_dim_mul": [[1, 2.0]],
    "atten_head_mul": [[1, 2.0]],
    "pool_q_stride_size": [[1, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "pool_kvq_kernel": [3, 3, 3],
}


def test_mvit_is_pytorchvideo_s() -> None:
    build = factories().vision_transformers.create_multiscale_vision_transformers
    theirs = randomised(build(spatial_size=32, temporal_size=4, **SMALL_MVIT))
    state = theirs.state_dict()
    ours = MViTv1(frames=4, size=32, **LAYOUTS["pytorchvideo-mvit"].arguments(state), **SMALL_MVIT)
    loaded(ours, state, "pytorchvideo_mvit_b", "pytorchvideo-mvit")
    clip = random_clip(ours.input_spec)
    with torch.no_grad():
        tokens = head_input(theirs, "norm_embed", clip).view(2, -1, ours.dim)
        assert torch.allclose(ours(clip), tokens[:, 0], atol=1e-5, rtol=1e-4)
        assert torch.allclose(ours.forward_layers(clip)[-1], tokens[:, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "layout", "original", "million"),
    [
        ("r3d_18", "torchvision-resnet", lambda: video.r3d_18(weights=None), 33.37),
        ("mc3_18", "torchvision-resnet", lambda: video.mc3_18(weights=None), 11.70),
        ("r2plus1d_18", "torchvision-resnet", lambda: video.r2plus1d_18(weights=None), 31.51),
        ("s3d", "torchvision-s3d", lambda: video.s3d(weights=None), 8.32),
        ("slowfast_r50", "pytorchvideo", lambda: factories().slowfast_r50(pretrained=False), 34.57),
        ("x3d_s", "pytorchvideo", lambda: factories().x3d_s(pretrained=False), 3.79),
        ("x3d_m", "pytorchvideo", lambda: factories().x3d_m(pretrained=False), 3.79),
        ("csn_r101", "pytorchvideo", lambda: factories().csn_r101(pretrained=False), 22.21),
        ("i3d_r50", "pytorchvideo", lambda: factories().i3d_r50(pretrained=False), 28.04),
    ],
)
def test_published_sizes_take_the_originals_files_whole(
    architecture: str, layout: str, original: Callable, million: float
) -> None:
    with torch.device("meta"):
        encoder, theirs = create_model(architecture), original()
    state = theirs.state_dict()
    assert detect_layout(state, architecture, "file").name == layout
    left = load_layout(encoder, state, LAYOUTS[layout], "file").left
    classes = encoder.dim * 400 + 400
    assert sum(value.numel() for value in left.values()) == classes
    ours = sum(parameter.numel() for parameter in encoder.parameters())
    assert ours + classes == sum(parameter.numel() for parameter in theirs.parameters())
    assert round((ours + classes) / 1e6, 2) == million
    strides = [module.stride for module in encoder.modules() if isinstance(module, nn.Conv3d)]
    assert {type(step) for stride in strides for step in stride} == {int}  # a compiler does not know numpy's


def test_mvit_b_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder = create_model("pytorchvideo_mvit_b")
    norm_and_head = 2 * encoder.dim + encoder.dim * 400 + 400
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) + norm_and_head
    assert round(parameters / 1e6, 2) == 36.61


@pytest.mark.parametrize("name", ["r2plus1d_tiny", "slowfast_tiny"])
def test_checkpointing_counts_a_batch_once(name: str) -> None:
    encoder = create_model(name, size=32)
    start = {key: value.clone() for key, value in encoder.state_dict().items()}
    clip = random_clip(encoder.input_spec)
    gradients, statistics = [], []
    for encoder.checkpointing in (False, True):
        encoder.load_state_dict(start)
        encoder.zero_grad()
        encoder.train()(clip).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
        statistics.append({key: value.clone() for key, value in encoder.named_buffers()})
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
    for key, value in statistics[0].items():
        assert torch.equal(value, statistics[1][key]), key
        assert not torch.equal(value, start[key]), key
    encoder(clip)  # a later batch is counted again
    assert {value.item() for key, value in encoder.named_buffers() if "num_batches" in key} == {2}


def test_compiled_checkpointing_counts_a_batch_once_too() -> None:
    encoder = create_model("r3d_tiny", size=16)
    encoder.layers = encoder.layers[:2]  # the stem and one stage
    clip = random_clip(encoder.input_spec)
    start = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.train()(clip)
    plain = {key: value.clone() for key, value in encoder.named_buffers()}
    encoder.load_state_dict(start)
    encoder.checkpointing = True
    torch._dynamo.reset()
    torch.compile(encoder, fullgraph=True, backend="aot_eager")(clip).square().sum().backward()
    for key, value in encoder.named_buffers():
        assert torch.allclose(value.float(), plain[key].float(), atol=1e-6), key
    assert {plain[key].item() for key in plain if "num_batches" in key} == {0, 1}


def test_a_frozen_encoder_stays_as_it_is_while_its_head_trains() -> None:
    model = Classifier(create_model("r3d_tiny", size=32), 3)
    start = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    clip = random_clip(model.encoder.input_spec)
    model.encoder.freeze()
    features = model.encoder(clip)
    model.train()(clip).square().sum().backward()
    assert model.norm.training
    assert torch.equal(model.encoder(clip), features)
    assert all(torch.equal(value, start[key]) for key, value in model.encoder.state_dict().items())
    assert [name for name, value in model.named_parameters() if value.grad is None] == [
        f"encoder.{name}" for name, _ in model.encoder.named_parameters()
    ]


def test_slow_pathway_sees_the_frames_of_slowfast_s_loader() -> None:
    for frames in (4, 8, 12, 32, 64):
        encoder = create_model("slowfast_tiny", frames=frames, size=16)
        clip = torch.arange(float(frames)).view(1, 1, -1, 1, 1)
        slow, fast = encoder.enter(clip)
        assert slow.flatten().tolist() == torch.linspace(0, frames - 1, frames // ALPHA).long().tolist()
        assert torch.equal(fast, clip)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("s3d_tiny", {"frames": 5, "size": 17}, None),
        ("s3d_tiny", {"frames": 4}, "frames=4 leaves nothing after the strides: it must be at least 5"),
        ("s3d_tiny", {"size": 16}, "size=16 leaves nothing after the strides: it must be at least 17"),
        ("i3d_tiny", {"frames": 1, "size": 1}, None),
        ("r3d_tiny", {"frames": 1, "size": 1}, None),
        ("r3d_tiny", {"frames": 0}, "frames=0 leaves nothing"),
        ("x3d_tiny", {"frames": 1, "size": 1}, None),
        ("csn_tiny", {"frames": 1, "size": 1}, None),
        ("slowfast_tiny", {"frames": 4, "size": 1}, None),
        ("slowfast_tiny", {"frames": 6}, "frames=6 is not a multiple of 4"),
        ("slowfast_tiny", {"frames": 0}, "frames=0 leaves nothing after the strides: it must be at least 4"),
        ("pytorchvideo_mvit_tiny", {"frames": 3}, "frames=3 does not fit the patches: it must be a multiple of 2"),
        ("pytorchvideo_mvit_tiny", {"size": 62}, "size=62 does not fit the patches: it must be a multiple of 4"),
        ("pytorchvideo_mvit_tiny", {"pool": "max"}, "pool='max' is unknown; it is one of mean, class"),
    ],
)
def test_sizes_leave_a_map_at_the_end(name: str, arguments: dict, message: str | None) -> None:
    if message:
        with pytest.raises(UserError, match=message):
            create_model(name, **arguments)
    else:
        encoder = create_model(name, **arguments).eval()
        assert encoder(random_clip(encoder.input_spec)).isfinite().all()


def test_i3d_r50_needs_two_frames() -> None:
    net = small_i3d_r50()
    with pytest.raises(UserError, match="frames=1 leaves nothing after the strides: it must be at least 2"):
        ResNet(net, frames=1, size=32, source="", least_frames=2)
    with torch.device("meta"), pytest.raises(UserError, match="at least 2"):
        create_model("i3d_r50", frames=1)


def test_mvit_positions_follow_the_grid() -> None:
    encoder = create_model("pytorchvideo_mvit_tiny", frames=8, size=32)
    positions = encoder.cls_positional_encoding
    rows, columns = torch.arange(8.0).repeat_interleave(8), torch.arange(8.0).repeat(8)
    with torch.no_grad():
        positions.pos_embed_spatial.copy_((rows * 10 + columns)[None, :, None].expand_as(positions.pos_embed_spatial))
        positions.pos_embed_temporal.copy_(torch.arange(4.0)[None, :, None].expand_as(positions.pos_embed_temporal))
    larger = create_model("pytorchvideo_mvit_tiny", frames=16, size=64)
    load_state(larger, encoder.state_dict(), "file")
    inner = larger.cls_positional_encoding.pos_embed_spatial[0, :, 0].view(16, 16)[1:-1, 1:-1]
    assert torch.allclose(inner.diff(dim=0), torch.tensor(5.0))
    assert torch.allclose(inner.diff(dim=1), torch.tensor(0.5))
    steps = larger.cls_positional_encoding.pos_embed_temporal[0, :, 0].diff()
    assert torch.allclose(steps[1:-1], torch.tensor(0.5))
