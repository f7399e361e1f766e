"""Video Swin: torchvision's numbers, hidden patches, other windows, inflated images, public layouts, the original."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.encoder_clips import random_clip
from support.oracle_helpers import oracle_entry, state_of, swin_encoder
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.video import swin3d_b, swin3d_s, swin3d_t
from torchvision.models.video.swin_transformer import SwinTransformer3d

from islr.errors import UserError
from islr.models import create_model
from islr.models.layouts import LAYOUTS, detect_layout, load_layout, rename
from islr.models.swin import TABLE, SwinEncoder
from islr.models.weights import export_encoder, load_encoder, load_state
from islr.training.optim import OptimConfig, parameter_groups

PARITY = 1e-5


def small_swin(**options: object) -> SwinEncoder:
    torch.manual_seed(0)
    shape: dict = {"frames": 8, "size": 32, "depths": (2, 2), "embed_dim": 8, "num_heads": (1, 2), "window": (2, 4, 4)}
    encoder = SwinEncoder(**(shape | options)).eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith(TABLE):
            torch.nn.init.normal_(parameter)
    return encoder


def mm_name(name: str) -> str:
    """Video Swin's name of one of our parameters."""
    name = re.sub(r"mlp\.([03])\.", lambda match: f"mlp.fc{1 if match[1] == '0' else 2}.", name)

    def place(match: re.Match[str]) -> str:
        stage, merging = divmod(int(match[1]), 2)
        return f"layers.{stage}.downsample." if merging else f"layers.{stage}.blocks."

    return re.sub(r"features\.(\d+)\.", place, name)


def test_stage_by_stage_is_torchvision_s_whole() -> None:
    encoder = small_swin()
    theirs = SwinTransformer3d([2, 4, 4], 8, [2, 2], [1, 2], [2, 4, 4]).eval()
    load_layout(encoder, theirs.state_dict(), LAYOUTS["torchvision-swin3d"], "file")
    clip = random_clip(encoder.input_spec)
    with torch.no_grad():
        expected = theirs.norm(theirs.features(theirs.patch_embed(clip)))
        outputs = encoder.forward_tokens(clip)
        assert torch.equal(encoder.norm(outputs[-1]), expected)
        assert torch.equal(outputs[encoder.stage_ends[0]], theirs.features[0](theirs.patch_embed(clip)))
        assert torch.allclose(theirs.head(encoder(clip)), theirs(clip), atol=1e-5)


def test_hidden_patches_are_replaced_before_the_first_block() -> None:
    encoder = small_swin()
    clip, token = random_clip(encoder.input_spec), torch.randn(8)
    everything = torch.ones(2, 4, 4, 4, dtype=torch.bool)
    hidden = encoder.forward_tokens(clip, everything, token)[-1]
    assert torch.allclose(hidden[0], hidden[1], atol=1e-5)
    nothing = encoder.forward_tokens(clip, ~everything, token)[-1]
    assert torch.equal(nothing, encoder.forward_tokens(clip)[-1])
    with pytest.raises(UserError, match="does not fit a token grid"):
        encoder.forward_tokens(clip, everything[:, :3], token)


def test_layers_count_blocks_and_mergings_join_the_block_they_feed() -> None:
    encoder = small_swin()
    assert [layer.shape for layer in encoder.forward_layers(random_clip(encoder.input_spec))] == [
        (2, 4 * 8 * 8, 8),
        (2, 4 * 8 * 8, 8),
        (2, 4 * 4 * 4, 16),
        (2, 4 * 4 * 4, 16),
    ]
    names = ("patch_embed.norm.bias", "features.0.1.norm1.bias", "features.1.norm.bias", "features.2.0.norm1.bias")
    assert [encoder.layer_of(name) for name in names] == [0, 2, 3, 3]
    assert encoder.layer_of("norm.weight") == encoder.layer_of("features.2.1.mlp.3.bias") == 4


def test_position_tables_are_not_decayed() -> None:
    groups = parameter_groups(small_swin(), OptimConfig(lr=1.0, epochs=1, batch_size=1, weight_decay=0.3))
    tables = {group["weight_decay"] for group in groups for name in group["names"] if name.endswith(TABLE)}
    assert tables == {0.0}


def test_files_hold_no_index_and_load_for_another_window(tmp_path: Path) -> None:
    encoder = create_model("swin_tiny")
    export_encoder(encoder, tmp_path / "encoder.safetensors", {})
    assert not [name for name in load_file(tmp_path / "encoder.safetensors") if "index" in name]
    longer = load_encoder(tmp_path / "encoder.safetensors", frames=16, window=(8, 2, 2))
    assert longer(random_clip(longer.input_spec)).shape == (2, encoder.dim)
    assert longer.window == (8, 2, 2)


@pytest.mark.parametrize("window", [(4, 4, 4), (2, 6, 6)])
def test_tables_keep_a_straight_line_straight(window: tuple[int, int, int]) -> None:
    encoder, other = small_swin(), small_swin(window=window)
    state = encoder.state_dict()
    name = next(name for name in state if name.endswith(TABLE))
    time, row = (torch.arange(-side + 1.0, side) for side in encoder.window[:2])
    state[name] = (100 * time[:, None, None] + row[:, None] + torch.zeros(len(row))).flatten()[:, None]
    load_state(other, state, "file")
    sides = [2 * side - 1 for side in window]
    table = other.state_dict()[name][:, 0].view(sides)
    assert torch.allclose(table[sides[0] // 2, sides[1] // 2], torch.zeros(sides[2]), atol=1e-4)  # no distance
    assert torch.allclose(table, -table.flip(0, 1), atol=1e-4)  # past and future, up and down
    assert table[-2, 1, 0] - table[-3, 1, 0] == pytest.approx(100 * 3 / sides[0], rel=1e-3)
    assert table[0, 3, 0] - table[0, 2, 0] == pytest.approx(7 / sides[1], rel=1e-3)


def test_tables_that_fit_no_window_are_refused() -> None:
    encoder = small_swin()
    state = encoder.state_dict()
    name = next(name for name in state if name.endswith(TABLE))
    for rows in (2 * 7 * 7, 3 * 36):
        with pytest.raises(UserError, match=rf"'{re.escape(name)}' is \[{rows}, 1\]"):
            load_state(encoder, state | {name: torch.zeros(rows, 1)}, "file")


def test_an_inflated_image_model_sees_a_still_clip_as_its_image() -> None:
    encoder = small_swin(window=(4, 4, 4))
    image_state = {mm_name(name): value.clone() for name, value in encoder.state_dict().items()}
    kernel = torch.randn(8, 3, 4, 4)
    image_state["patch_embed.proj.weight"] = kernel
    for name in list(image_state):
        if name.endswith(TABLE):
            image_state[name] = torch.randn(7 * 7, image_state[name].shape[1])
    image_state |= {"layers.0.blocks.1.attn_mask": torch.zeros(1), "head.weight": torch.zeros(2, 16)}
    layout = detect_layout(image_state, "swin_tiny", "file")
    assert layout.name == "swin-2d"
    load_layout(encoder, image_state, layout, "file")
    still = torch.randn(2, 3, 1, 32, 32).expand(-1, -1, 8, -1, -1)
    image = torch.conv2d(still[:, :, 0], kernel, encoder.patch_embed.proj.bias, stride=4)  # [B, D, h, w]
    tokens = encoder.patch_embed.norm(image.permute(0, 2, 3, 1))[:, None]  # [B, 1, h, w, D]
    alone, clip = encoder.run_blocks(tokens)[-1], encoder.forward_tokens(still)[-1]
    assert torch.allclose(clip, alone.expand_as(clip), atol=1e-4)


def test_an_image_is_a_clip_of_one_moment() -> None:
    encoder = small_swin(size=64, depths=(2, 2, 2), num_heads=(1, 2, 4), window=(3, 4, 4))
    image_model = SwinTransformer([4, 4], 8, [2, 2, 2], [1, 2, 4], [4, 4], stochastic_depth_prob=0.0).eval()
    state = {}
    for name, value in encoder.features.state_dict().items():
        if name.endswith(TABLE):
            value = value.view(5, 49, -1)[2]  # biases at no distance in time
        part, _, rest = name.partition(".")
        state[f"{int(part) + 1}.{rest}"] = value  # the image model's patch embedding is part 0
    missing, unexpected = image_model.features.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("0.") or name.endswith("relative_position_index") for name in missing)
    tokens = torch.randn(2, 16, 16, 8)
    with torch.no_grad():
        outputs, expected = encoder.run_blocks(tokens[:, None]), tokens
        for index, part in enumerate(image_model.features[1:]):
            expected = part(expected)
            if index % 2 == 0:
                result = outputs[encoder.stage_ends[index // 2]][:, 0]
                assert torch.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(("build", "name"), [(swin3d_t, "swin_t"), (swin3d_s, "swin_s"), (swin3d_b, "swin_b")])
def test_torchvision_s_published_models_have_our_names_and_shapes(build, name: str) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        theirs, encoder = build().state_dict(), create_model(name)
    layout = detect_layout(theirs, name, "file")
    assert layout.name == "torchvision-swin3d"
    renamed = rename(theirs, layout, "file")
    assert {key: value.shape for key, value in renamed.tensors.items()} == {
        key: value.shape for key, value in encoder.state_dict().items()
    }
    assert layout.arguments(theirs) == {"window": [8, 7, 7]}


def test_video_swin_s_names_are_understood() -> None:
    with torch.device("meta"):
        encoder = create_model("swin_t", window=(16, 7, 7))
    state = {f"backbone.{mm_name(name)}": value for name, value in encoder.state_dict().items()}
    state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(1)
    assert detect_layout(state, "swin_t", "file").name == "mm-swin"
    state["cls_head.fc_cls.weight"] = torch.zeros(1)
    layout = detect_layout(state, "swin_t", "file")
    assert layout.name == "mm-swin"
    assert rename(state, layout, "file").tensors.keys() == encoder.state_dict().keys()
    assert layout.arguments(layout.strip(state)) == {"window": [16, 7, 7]}
    with pytest.raises(UserError, match=r"layout mm-swin has no tensors of these names: mask_token"):
        rename(state | {"backbone.mask_token": torch.zeros(1)}, layout, "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 5}, "frames=5 does not fit"),
        ({"size": 30}, "size=30 does not fit"),
        ({"window": (2, 4)}, "a window is three numbers"),
        ({"window": (0, 4, 4)}, "a window is three numbers"),
        ({"num_heads": (1, 3)}, r"must divide the stages' widths \[8, 16\]"),
        ({"num_heads": (1,)}, "one number a stage"),
        ({"depths": (2, 0)}, "every stage has a block"),
        ({"init": "zeros"}, "init='zeros' is unknown; it is one of swin, fan_in"),
    ],
)
def test_impossible_numbers_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_swin(**options)


@pytest.mark.oracle
def test_small_swin_is_video_swin_s(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "video_swin_tiny.safetensors", "svt_bevt")
    encoder = swin_encoder(entry["params"], state_of(tensors), "mm-swin")
    clips = [name for name in tensors if name.startswith("x_")]
    assert clips
    for name in clips:
        with torch.no_grad():
            result = encoder.norm(encoder.run_blocks(encoder.patch_embed(tensors[name]))[-1])
        assert (result.permute(0, 4, 1, 2, 3) - tensors[name.replace("x_", "y_")]).abs().max() < PARITY


@pytest.mark.oracle
def test_bevt_s_layout_leaves_everything_but_the_encoder(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "bevt_backbone_tiny.safetensors", "svt_bevt")
    state = {f"backbone.{name}": tensors[f"sd.{name}"] for name in entry["state_keys"]}
    state |= {"cls_head.lm_head.weight": torch.zeros(1), "cls_head.vae_encoder.blocks.input.w": torch.zeros(1)}
    layout = detect_layout(state, "swin_tiny", "file")
    assert layout.name == "bevt"
    encoder = swin_encoder(entry["params"], state, "bevt")
    renamed = rename(state, layout, "file")
    assert renamed.tensors.keys() == encoder.state_dict().keys()
    beside = {name.split(".")[0] for name in renamed.left if "index" not in name}
    assert beside == {"mask_token", "patch_embed_2d", "fpn", "fpn_s", "fpn_t", "lm_down", "lm_down_st", "cls_head"}
