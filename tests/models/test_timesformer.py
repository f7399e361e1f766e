"""TimeSformer: parity with the recorded original at any input, its layouts, and what its start means."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.encoder_clips import random_clip
from support.oracle_helpers import oracle_entry, state_of
from torch import Tensor

from islr.errors import UserError
from islr.models import create_model
from islr.models.layouts import LAYOUTS, detect_layout, load_layout
from islr.models.timesformer import TimeSformer
from islr.models.weights import load_state

PARITY = 1e-5


def small_timesformer(**options: Any) -> TimeSformer:
    shape: dict[str, Any] = {"frames": 4, "size": 32, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2}
    torch.manual_seed(0)
    return TimeSformer(**({"init": "fan_in"} | shape | options)).eval()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 72}, "size=72 must be a multiple of 16, such as 64 or 80"),
        ({"size": 0}, "size=0 must be a multiple of 16"),
        ({"frames": 0}, "frames=0"),
        ({"normalisation": "clip"}, "normalisation='clip' is unknown; it is one of imagenet"),
        ({"init": "zero"}, "init='zero' is unknown"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("timesformer_tiny", **arguments)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match="heads=5 does not divide dim=24"):
        small_timesformer(heads=5)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (9, 40, 24)])
def test_takes_any_clip_that_patches_divide(shape: tuple[int, int, int]) -> None:
    encoder = small_timesformer()
    frames, height, width = shape
    clip = torch.randn(2, 3, *shape)
    assert encoder(clip).shape == (2, 24)
    assert [layer.shape for layer in encoder.forward_layers(clip)] == [(2, frames * height * width // 64, 24)] * 2
    with pytest.raises(UserError, match="multiples of 8"):
        encoder(torch.randn(2, 4, *shape))


@pytest.mark.parametrize("other", [{"frames": 7, "size": 32}, {"frames": 4, "size": 48}, {"frames": 2, "size": 16}])
def test_loading_for_another_input_is_running_at_it(other: dict[str, int]) -> None:
    encoder = small_timesformer()
    resized = small_timesformer(**other)
    load_state(resized, encoder.state_dict(), "file")
    clip = random_clip(resized.input_spec)
    assert torch.equal(resized(clip), encoder(clip))


def test_published_start_does_not_see_the_order_of_frames() -> None:
    clip = random_clip(create_model("timesformer_tiny").input_spec)
    for init, blind in (("timesformer", True), ("fan_in", False)):
        encoder = create_model("timesformer_tiny", init=init).eval()
        assert torch.allclose(encoder(clip), encoder(clip.flip(2)), atol=1e-4) is blind


def test_attention_is_divided() -> None:
    """Within one block a patch sees its own place over time and its own frame, and nothing else."""
    encoder = small_timesformer(depth=1)
    clip = random_clip(encoder.input_spec, batch=1)
    moved = clip.clone()
    moved[:, :, 2, 8:16, 16:24] += 1  # the patch of frame 2 in row 1, column 2
    before, after = (encoder.forward_layers(x)[0].unflatten(1, (4, 4, 4)) for x in (clip, moved))
    changed = (before - after).abs().amax(dim=(0, 4)) > 0  # [T, h, w]
    # In its own frame all change; elsewhere the time attention at its place changes what the whole frame then sees.
    assert changed.all()
    encoder.blocks[0].attn.proj.weight.data.zero_()
    before, after = (encoder.forward_layers(x)[0].unflatten(1, (4, 4, 4)) for x in (clip, moved))
    changed = (before - after).abs().amax(dim=(0, 4)) > 0
    assert changed[:, 1, 2].all()
    assert changed.sum() == 4


def test_published_size_is_the_published_one() -> None:
    with torch.device("meta"):
        encoder = create_model("timesformer_b")
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 2) == 121.26
    assert encoder.blocks[-1].drop_path.drop_prob == pytest.approx(0.1)
    assert encoder.input_spec.mean == (0.485, 0.456, 0.406)
    assert create_model("timesformer_tiny", normalisation="slowfast").input_spec.mean == (0.45, 0.45, 0.45)


# Parity with kahnchana/svt --------------------------------------------------------------------------------------------


def encoder_of(params: dict[str, Any], **options: Any) -> TimeSformer:
    """The encoder that an oracle's parameters describe."""
    return TimeSformer(
        frames=params["num_frames"],
        size=params["img_size"],
        patch_size=params["patch_size"],
        dim=params["embed_dim"],
        depth=params["depth"],
        heads=params["num_heads"],
        **options,
    ).eval()


def place_major(tokens: Tensor, frames: int) -> Tensor:
    """Our tokens `[B, 1 + T * n, D]` in the original's order, a place's moments side by side."""
    patches = tokens[:, 1:].unflatten(1, (frames, -1)).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :1], patches], dim=1)


@pytest.mark.oracle
def test_small_timesformer_is_svt_s(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "svt_timesformer_tiny.safetensors", "svt_bevt")
    encoder = encoder_of(entry["params"])
    beside = load_layout(encoder, state_of(tensors), LAYOUTS["svt"], "oracle").left
    cases = [name.removeprefix("x_") for name in tensors if name.startswith("x_")]
    assert cases
    for case in cases:
        clip = tensors[f"x_{case}"]
        with torch.no_grad():
            tokens = encoder.norm(encoder.forward_tokens(clip)[-1])
            feature = encoder(clip)
        difference = (place_major(tokens, clip.shape[2]) - tensors[f"all_{case}"]).abs().max()
        assert difference < PARITY, case
        assert (feature - tensors[f"cls_{case}"]).abs().max() < PARITY, case
        if f"attn_{case}" in tensors:
            attention = encoder.class_attention(clip).flatten(3).flatten(0, 1)  # [B * T, A, n]
            assert (attention - tensors[f"attn_{case}"][:, :, 0, 1:]).abs().max() < PARITY, case
        if f"logits_{case}" in tensors:
            logits = feature @ beside["head.weight"].t() + beside["head.bias"]
            assert (logits - tensors[f"logits_{case}"]).abs().max() < 10 * PARITY, case


def to_hugging_face(name: str) -> str:
    """Hugging Face's name of one of TimeSformer's tensors."""
    if name.startswith("head."):
        return name.replace("head.", "classifier.")
    if not name.startswith("blocks."):
        top = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
        top |= {"time_embed": "embeddings.time_embeddings"}
        renamed = name.replace("patch_embed.proj.", "embeddings.patch_embeddings.projection.")
        return "timesformer." + top.get(name, renamed.replace("norm.", "layernorm."))
    _, number, rest = name.split(".", 2)
    for theirs, own in (
        ("temporal_norm1.", "temporal_layernorm."),
        ("norm1.", "layernorm_before."),
        ("norm2.", "layernorm_after."),
        ("temporal_attn.qkv.", "temporal_attention.attention.qkv."),
        ("temporal_attn.proj.", "temporal_attention.output.dense."),
        ("attn.qkv.", "attention.attention.qkv."),
        ("attn.proj.", "attention.output.dense."),
        ("temporal_fc.", "temporal_dense."),
        ("mlp.fc1.", "intermediate.dense."),
        ("mlp.fc2.", "output.dense."),
    ):
        if rest.startswith(theirs):
            return f"timesformer.encoder.layer.{number}.{own}{rest.removeprefix(theirs)}"
    raise AssertionError(name)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "svt": lambda name: f"backbone.{name}" if not name.startswith("head.") else name,
    "svt-student": lambda name: f"module.backbone.{name}" if not name.startswith("head.") else f"module.{name}",
    "timesformer": lambda name: f"model.{name}",
    "hf-timesformer": to_hugging_face,
}


@pytest.mark.oracle
@pytest.mark.parametrize("layout", SPELLINGS)
def test_layouts_hold_the_original_s_names(oracles: Path, layout: str) -> None:
    entry, tensors = oracle_entry(oracles, "svt_timesformer_tiny.safetensors", "svt_bevt")
    state, params = state_of(tensors), entry["params"]
    assert set(state) == set(entry["state_keys"])
    spelled = {SPELLINGS[layout](name): value for name, value in state.items()}
    if layout != "svt-student":  # the same names as svt: only the user can tell
        assert detect_layout(spelled, "timesformer_tiny", "file").name == layout
    said = LAYOUTS[layout].arguments(spelled)
    assert (said["frames"], said["size"]) == (params["num_frames"], params["img_size"])
    assert said["normalisation"] == ("imagenet" if layout.startswith("svt") else "slowfast")
    encoder = encoder_of(params)
    left = load_layout(encoder, spelled, LAYOUTS[layout], "file").left
    assert len(left) == 2
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_layouts_say_where_the_weights_lie() -> None:
    assert LAYOUTS["svt"].entries == ("teacher", "student")
    assert LAYOUTS["svt-student"].entries == ("student",)
    assert LAYOUTS["timesformer"].entries == ("model_state",)
    with pytest.raises(UserError, match="layout svt has no tensors of these names: aux_cls_token"):
        load_layout(small_timesformer(), {"backbone.aux_cls_token": torch.zeros(1)}, LAYOUTS["svt"], "file")


def test_an_image_transformer_starts_a_timesformer() -> None:
    encoder = small_timesformer(init="timesformer")
    blank = {name: value.clone() for name, value in encoder.state_dict().items()}
    image = {
        f"backbone.{name}": torch.randn_like(value)
        for name, value in blank.items()
        if "time" not in name and "temporal" not in name
    }
    left = load_layout(encoder, image | {"head.mlp.0.bias": torch.zeros(3)}, LAYOUTS["dino-vit"], "file").left
    assert set(left) == {"head.mlp.0.bias"}
    for name, value in encoder.state_dict().items():
        source = name.replace("temporal_attn.", "attn.").replace("temporal_norm1.", "norm1.")
        expected = blank[name] if "time_embed" in name or "temporal_fc" in name else image[f"backbone.{source}"]
        assert torch.equal(value, expected), name
    assert LAYOUTS["dino-vit"].arguments(image) == {"normalisation": "imagenet", "size": 32}
    # Nothing is said about time yet: two clips of the same still frame have the same features whatever their length.
    still = torch.randn(1, 3, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(encoder(still.expand(-1, -1, 4, -1, -1)), encoder(still), atol=1e-4)


@pytest.mark.oracle
def test_only_the_user_can_choose_some_layouts(oracles: Path) -> None:
    _, tensors = oracle_entry(oracles, "svt_timesformer_tiny.safetensors", "svt_bevt")
    state = state_of(tensors)
    assert not LAYOUTS["svt-student"].matches(state)
    assert not LAYOUTS["dino-vit"].matches(state)
