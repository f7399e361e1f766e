"""Convolutional encoders: public layouts against the originals, checkpointing with BatchNorm, sizes, parity of I3D."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.encoder_clips import random_clip
from support.oracle_helpers import oracle_entry
from torch import Tensor, nn
from torchvision.models import video

from islr.errors import UserError
from islr.models import Classifier, Encoder, create_model, to_input
from islr.models.convnets.i3d import pad_same
from islr.models.convnets.pytorchvideo_nets import ALPHA, X3D, MViTv1, ResNet, SlowFast, factories
from islr.models.layouts import LAYOUTS, detect_layout, layouts_of, load_layout
from islr.models.weights import load_state

I3D_PARITY = 1e-4  # absolute over the largest value; nine blocks in fp32


def unfilled(build: Callable[[], Any]) -> Any:
    """A network in memory whose initialisation was not computed."""
    with torch.device("meta"):
        network = build()
    return network.to_empty(device="cpu")


def randomised(module: Any, seed: int = 0) -> Any:
    """In evaluation mode, with nothing left where it starts, at sizes that keep activations near 1."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                value.zero_()
                continue
            noise = torch.randn(value.shape, generator=stream)
            if value.ndim > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                value.copy_(1 + 0.2 * noise.clamp(-2, 2))
            else:
                value.copy_(0.1 * noise)
    return module.eval()


def loaded(encoder: Encoder, state: dict[str, Tensor], architecture: str, layout: str) -> Encoder:
    """The encoder with the file's weights, through the layout that the file's names give away."""
    assert detect_layout(state, architecture, "file").name == layout
    load_layout(encoder, state, LAYOUTS[layout], "file")
    return encoder.eval()


def head_input(model: nn.Module, head: str, clip: Any) -> Tensor:
    """What a model gives its class layer, as `[B, D]`."""
    seen: list[Tensor] = []
    model.get_submodule(head).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(clip)
    return seen[0].flatten(1)


# Layouts against the originals ----------------------------------------------------------------------------------------


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


def test_mvit_b_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder = create_model("pytorchvideo_mvit_b")
    norm_and_head = 2 * encoder.dim + encoder.dim * 400 + 400
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) + norm_and_head
    assert round(parameters / 1e6, 2) == 36.61


# I3D ------------------------------------------------------------------------------------------------------------------


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


# BatchNorm, pathways, sizes -------------------------------------------------------------------------------------------


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


def test_a_compiler_knows_the_strides_of_pytorchvideo_s_networks() -> None:
    for name in ("slowfast_r50", "x3d_s", "csn_r101", "i3d_r50"):
        with torch.device("meta"):
            encoder = create_model(name)
        strides = [module.stride for module in encoder.modules() if isinstance(module, nn.Conv3d)]
        assert {type(step) for stride in strides for step in stride} == {int}


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
