"""Encoders: the contract over the registry, parity with torchvision and SlowFast, strict weights."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from oracle_helpers import (
    encoder_from_overrides,
    fill_parameters,
    oracle_entry,
    oracle_file,
    parameter_sha256,
    random_input,
    slowfast_parameters,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleAttention

from islr.errors import UserError
from islr.models import MODELS, Classifier, Encoder, InputSpec, create_model, list_models, to_input
from islr.models.depthwise import depthwise_conv3d
from islr.models.encoder import EncoderConfig, interpolate_positions
from islr.models.mvit import MViTEncoder, resize_mask
from islr.models.mvit_blocks import PooledAttention
from islr.models.weights import (
    build_encoder,
    export_encoder,
    from_slowfast,
    load_encoder,
    load_state,
    load_weights,
    read_metadata,
    to_slowfast_name,
)

TINY = list_models("*_tiny")
# Another input size that each preset allows.
OTHER_SIZE = {"mvit_tiny": {"frames": 4, "size": 96}, "pose_transformer_tiny": {"frames": 24}}
# A key bias shifts all scores of a query alike, and softmax does not see a shift.
WITHOUT_GRADIENT = ("attn.pool_k.norm_act.0.bias",)
PARITY = 1e-4  # absolute, after up to 16 blocks in fp32


def random_clip(spec: InputSpec, batch: int = 2, seed: int = 0) -> Tensor:
    clip = torch.randn(batch, *spec.clip_shape, generator=torch.Generator().manual_seed(seed))
    if spec.modality == "pose":
        clip[..., 2] = (clip[..., 2] > -1).float()
    return clip


@pytest.mark.parametrize("name", TINY)
class TestContract:
    def test_shapes_match_what_is_declared(self, name: str) -> None:
        encoder = create_model(name).eval()
        clip = random_clip(encoder.input_spec)
        layers = encoder.forward_layers(clip)
        assert encoder(clip).shape == (2, encoder.dim)
        assert [layer.shape[2] for layer in layers] == encoder.layer_dims
        assert all(layer.shape[0] == 2 and layer.ndim == 3 for layer in layers)

    def test_is_tiny(self, name: str) -> None:
        assert sum(parameter.numel() for parameter in create_model(name).parameters()) < 1_000_000

    def test_every_parameter_has_a_layer_and_every_layer_parameters(self, name: str) -> None:
        model = Classifier(create_model(name), num_classes=3)
        layers = {model.layer_of(parameter) for parameter, _ in model.named_parameters()}
        assert layers == set(range(model.num_layers))
        assert model.layer_of("head.weight") == model.layer_of("norm.bias") == len(model.encoder.layer_dims) + 1

    def test_gradient_reaches_every_parameter(self, name: str) -> None:
        model = Classifier(create_model(name), num_classes=3, head_init_scale=1.0)
        model(random_clip(model.encoder.input_spec)).square().sum().backward()
        for parameter, value in model.named_parameters():
            assert value.grad is not None, parameter
            if not parameter.endswith(WITHOUT_GRADIENT):
                assert value.grad.abs().max() > 1e-12, parameter

    def test_export_and_load_give_the_same_encoder(self, name: str, tmp_path: Path) -> None:
        encoder = create_model(name).eval()
        export_encoder(encoder, tmp_path / "encoder.safetensors", {"recipe": "none"})
        loaded = load_encoder(tmp_path / "encoder.safetensors").eval()
        clip = random_clip(encoder.input_spec)
        assert torch.equal(loaded(clip), encoder(clip))
        assert loaded.input_spec == encoder.input_spec
        assert read_metadata(tmp_path / "encoder.safetensors")["recipe"] == "none"

    def test_loads_for_another_input_size(self, name: str, tmp_path: Path) -> None:
        encoder = create_model(name)
        export_encoder(encoder, tmp_path / "encoder.safetensors", {})
        other = load_encoder(tmp_path / "encoder.safetensors", **OTHER_SIZE[name]).eval()
        assert other.input_spec != encoder.input_spec
        assert other(random_clip(other.input_spec)).shape == (2, encoder.dim)
        same = {k for k, v in other.state_dict().items() if v.shape == encoder.state_dict()[k].shape}
        assert all(torch.equal(other.state_dict()[k], encoder.state_dict()[k]) for k in same)

    def test_clips_of_a_batch_do_not_see_each_other(self, name: str) -> None:
        encoder = create_model(name).eval()
        clip = random_clip(encoder.input_spec, batch=3)
        alone = torch.cat([encoder(one[None]) for one in clip])
        assert torch.allclose(encoder(clip), alone, atol=1e-5)

    def test_training_mode_differs_by_drop_path_alone(self, name: str) -> None:
        encoder = create_model(name)
        clip = random_clip(encoder.input_spec)
        assert torch.equal(encoder.train()(clip), encoder.eval()(clip))
        dropped = create_model(name, drop_path=0.9)
        dropped.load_state_dict(encoder.state_dict())
        assert torch.equal(dropped.eval()(clip), encoder(clip))
        torch.manual_seed(0)
        assert not torch.allclose(dropped.train()(clip), encoder(clip))

    def test_refuses_a_clip_of_another_shape(self, name: str) -> None:
        encoder = create_model(name)
        with pytest.raises(UserError, match="takes clips of shape"):
            encoder(random_clip(create_model(name, **OTHER_SIZE[name]).input_spec))


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'mvit_tiny'\?.*pose_transformer_base"):
        create_model("mvit_tinny")
    with pytest.raises(UserError, match="no argument 'frame'; did you mean 'frames'"):
        create_model("mvit_tiny", frame=8)
    assert set(list_models("mvit*")) == {name for name in MODELS if name.startswith("mvit")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 72}, "size=72 .* multiple of 32, such as 64 or 96"),
        ({"size": 80, "last_stride": 1}, None),
        ({"frames": 7}, "frames=7 .* multiple of 2"),
        ({"size": 0}, "size=0 .* multiple of 32"),
        ({"pool": "max"}, "pool='max' is unknown"),
    ],
)
def test_sizes_must_fit_the_strides(arguments: dict, message: str | None) -> None:
    if message is None:
        assert create_model("mvit_tiny", **arguments).input_spec.size == arguments["size"]
    else:
        with pytest.raises(UserError, match=message):
            create_model("mvit_tiny", **arguments)


def test_pixels_are_normalised_by_the_spec() -> None:
    spec = InputSpec(1, 1, (0.5, 0.25, 0.0), (0.5, 1.0, 2.0), "video")
    clip = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    assert torch.allclose(to_input(clip, spec).flatten(), torch.tensor([1.0, -0.25, 0.1]))


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    export_encoder(create_model("pose_transformer_tiny", frames=4), path, {})
    return path


def test_pickles_are_never_opened(tmp_path: Path, exported: Path) -> None:
    state = load_file(exported)
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "bare.pt", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(UserError, match="is a pickle"):
            load_encoder(tmp_path / name)
        with pytest.raises(UserError, match="is a pickle"):
            load_weights(create_model("pose_transformer_tiny", frames=4), tmp_path / name)


def test_broken_files_are_named(tmp_path: Path, exported: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    for length in (0, 5, 100, exported.stat().st_size - 1):
        cut.write_bytes(exported.read_bytes()[:length])
        with pytest.raises(UserError, match=r"cut\.safetensors: truncated or not a safetensors file"):
            load_encoder(cut)
    with pytest.raises(UserError, match="no such weights file"):
        load_encoder(tmp_path / "absent.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="no architecture in its metadata"):
        load_encoder(tmp_path / "foreign.safetensors")


def test_weights_load_strictly(tmp_path: Path, exported: Path) -> None:
    encoder = create_model("pose_transformer_tiny", frames=4)
    state = load_file(exported)
    with pytest.raises(UserError, match="has tensors the encoder does not: extra"):
        load_state(encoder, state | {"extra": torch.zeros(1)}, "file")
    lacking = {name: value for name, value in state.items() if name != "part_embed"}
    with pytest.raises(UserError, match="lacks tensors of the encoder: part_embed"):
        load_state(encoder, lacking, "file")
    fresh = encoder.part_embed.clone()
    load_state(encoder, lacking, "file", allow_missing=["part_embed"])
    assert torch.equal(encoder.part_embed, fresh)
    assert torch.equal(encoder.time_embed, state["time_embed"])
    with pytest.raises(UserError, match=r"'part_embed' is \[4, 96\], the encoder needs \[3, 96\]"):
        load_state(encoder, state | {"part_embed": torch.zeros(4, 96)}, "file")


def test_config_builds_with_weights_of_its_own_architecture_only(exported: Path) -> None:
    config = EncoderConfig(name="pose_transformer_tiny", weights=str(exported))
    assert build_encoder(config).input_spec.frames == 4
    assert build_encoder(config, frames=6).input_spec.frames == 6
    with pytest.raises(UserError, match="holds 'pose_transformer_tiny', not the wanted 'mvit_tiny'"):
        build_encoder(EncoderConfig(name="mvit_tiny", weights=str(exported)))


def test_position_tables_keep_a_straight_line_straight() -> None:
    table = torch.arange(27.0)[:, None].expand(-1, 2)
    shorter = interpolate_positions(table, 13)
    assert torch.allclose(shorter[:, 0], (torch.arange(13) + 0.5) * 27 / 13 - 0.5, atol=1e-5)


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


# MViT -----------------------------------------------------------------------------------------------------------------


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
    [((2, 8, 8), 1, 2), ((2, 8, 8), 2, 2), ((3, 6, 6), 2, 1), ((2, 7, 7), 1, 2), ((2, 4, 4), 1, 1)],
)
def test_attention_is_torchvision_s(grid: tuple[int, int, int], stride_q: int, stride_kv: int) -> None:
    torch.manual_seed(0)
    config = MSBlockConfig(2, 12, 12, [3, 3, 3], [3, 3, 3], [1, stride_q, stride_q], [1, stride_kv, stride_kv])
    arguments: dict = {
        "num_heads": config.num_heads,
        "kernel_q": config.kernel_q,
        "kernel_kv": config.kernel_kv,
        "stride_q": config.stride_q,
        "stride_kv": config.stride_kv,
        "residual_pool": True,
        "residual_with_cls_embed": False,
        "rel_pos_embed": True,
    }
    theirs = MultiscaleAttention(list(grid), 12, 12, **arguments)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours = PooledAttention(list(grid), 12, 12, **arguments)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 1 + grid[0] * grid[1] * grid[2], 12)
    result, pooled = ours(x, grid)
    expected, expected_grid = theirs(x, grid)
    assert pooled == expected_grid
    assert torch.allclose(result, expected, atol=1e-5, rtol=1e-4)


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
    shape: dict = {"frames": 4, "size": 32, "depth": 2, "embed_dim": 8, "kv_stride": 2}
    stages: dict = {"dim_mul": {}, "head_mul": {}, "q_stride": {}}
    return MViTEncoder(**(shape | stages | options)).eval()


def first_tokens(encoder: MViTEncoder, clip: Tensor, **hidden: Tensor) -> Tensor:
    """What the first block is given, without the class token."""
    seen: list[Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder.forward_tokens(clip, **hidden)
    return seen[-1][:, 1:]


def test_change_channels_do_not_see_what_stays_the_same() -> None:
    encoder = small_mvit(change_channels=0.5)
    still = torch.randn(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 4, -1, -1).clone()
    encoder.conv_proj.weight.data[:, :, [0, 2]] = 0  # a kernel of one frame: no border in time
    tokens = first_tokens(encoder, still)
    assert tokens[..., :4].abs().max() < 1e-6
    assert tokens[..., 4:].abs().max() > 1e-2
    moving = still.clone()
    moving[:, :, 2] += 1
    assert first_tokens(encoder, moving)[..., :4].abs().max() > 1e-2


def test_change_channels_take_no_mean_of_hidden_moments() -> None:
    encoder = small_mvit(change_channels=0.5)
    encoder.conv_proj.weight.data[:, :, [0, 2]] = 0
    clip = random_clip(encoder.input_spec, batch=1)
    mask = torch.zeros(1, 2, 1, 1, dtype=torch.bool)
    mask[:, 1] = True
    other = clip.clone()
    other[:, :, 2:] += 1
    token = torch.randn(8)
    before, after = (first_tokens(encoder, one, mask=mask, mask_token=token) for one in (clip, other))
    assert torch.equal(before, after)
    assert torch.equal(before[0, 64:], token.expand(64, -1))


def test_positions_tell_equal_patches_apart_and_follow_the_size() -> None:
    flat = torch.zeros(1, 3, 4, 32, 32)
    assert torch.allclose(first_tokens(small_mvit(), flat).std(dim=1), torch.zeros(1, 8))
    encoder = small_mvit(positions=True)
    assert first_tokens(encoder, flat).std(dim=1).min() > 0
    with torch.no_grad():  # a slope along height and another along width
        rows, columns = torch.arange(8.0).repeat_interleave(8), torch.arange(8.0).repeat(8)
        encoder.pos_space.copy_((rows * 10 + columns)[:, None].expand(-1, 8))
    larger = small_mvit(positions=True, size=64)
    load_state(larger, encoder.state_dict(), "file")
    inner = larger.pos_space[:, 0].view(16, 16)[1:-1, 1:-1]
    assert torch.allclose(inner.diff(dim=0), torch.tensor(5.0))
    assert torch.allclose(inner.diff(dim=1), torch.tensor(0.5))
    assert {encoder.layer_of(name) for name in ("pos_space", "pos_time")} == {0}


def test_batch_norm_head_removes_what_clips_have_in_common() -> None:
    encoder = create_model("pose_transformer_tiny", frames=4)
    clip = random_clip(encoder.input_spec, batch=8)
    model = Classifier(encoder, 3, norm="batch").train()
    model(clip)
    normalised = model.norm(encoder(clip))
    assert normalised.mean(dim=0).abs().max() < 1e-4
    assert {model.layer_of(name) for name, _ in model.named_parameters()} == set(range(model.num_layers))
    with pytest.raises(UserError, match="norm='group' is unknown"):
        Classifier(encoder, 3, norm="group")  # type: ignore[arg-type]


def test_masks_are_enlarged_by_repetition() -> None:
    mask = torch.tensor([[[[1, 0], [0, 1]]]], dtype=torch.bool)
    left, right = [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]
    assert resize_mask(mask, (1, 4, 6)).int().tolist() == [[[left, left, right, right]]]
    with pytest.raises(UserError, match="does not fit a token grid"):
        resize_mask(mask, (1, 3, 3))
    with pytest.raises(UserError, match="does not fit a token grid"):
        resize_mask(mask, (1, 1, 1))
    with pytest.raises(UserError, match="does not fit a token grid"):
        resize_mask(mask, (2, 4, 4))


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
    state, beside = from_slowfast({k[3:]: v for k, v in tensors.items() if k.startswith("sd.")})
    load_state(encoder, state, name)
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
def test_layers_are_slowfast_s_layer_decay_groups(oracles: Path) -> None:
    groups = json.loads(oracle_file(oracles, "optim.json").read_text())["slowfast_ft_S"]
    theirs: dict[float, set[str]] = defaultdict(set)
    for group in groups:
        theirs[group["lr_scale"]] |= set(group["params"])
    in_order = [theirs[scale] for scale in sorted(theirs)]  # the deepest layer learns fastest
    with torch.device("meta"):
        model = Classifier(create_model("mvit_s"), 400)
    ours: dict[int, set[str]] = defaultdict(set)
    for name, _ in model.named_parameters():
        slowfast = to_slowfast_name(name.removeprefix("encoder.")).replace("head.", "head.projection.")
        ours[model.layer_of(name)].add(slowfast)
    assert [ours[layer] for layer in range(model.num_layers)] == in_order


def test_slowfast_names_map_both_ways() -> None:
    encoder = MViTEncoder(
        frames=4, size=32, depth=2, embed_dim=8, dim_mul={1: 2}, head_mul={1: 2}, q_stride={1: 2}, kv_stride=2
    )
    state = encoder.state_dict()
    renamed, beside = from_slowfast({to_slowfast_name(name): value for name, value in state.items()})
    assert renamed.keys() == state.keys()
    assert not beside
    with pytest.raises(UserError, match=r"'blocks\.0\.gamma' is not a name"):
        from_slowfast({"blocks.0.gamma": torch.zeros(1)})


def test_every_registered_name_builds() -> None:
    for name in list_models():
        with torch.device("meta"):
            encoder = create_model(name)
        assert isinstance(encoder, Encoder)
        assert encoder.architecture == name
