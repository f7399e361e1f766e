"""The video ViT: visible tokens, fixed positions, its public layouts, parity with VideoMAE."""

import math
from pathlib import Path

import pytest
import torch
from support.encoder_clips import random_clip
from support.oracle_helpers import (
    decay_groups,
    fill_parameters,
    oracle_entry,
    parameter_sha256,
    random_input,
    recorded_groups,
    state_of,
    uninitialised,
)
from support.videomae_names import transformers_names, videomae_names, vit_from_config
from torch import Tensor
from torch.nn.functional import layer_norm

from islr.errors import UserError
from islr.models import Classifier, create_model
from islr.models.encoder import NORM_EPS
from islr.models.layouts import LAYOUTS, detect_layout, load_layout
from islr.models.transformer import sincos_positions
from islr.models.vit import ViTEncoder, patchify

BLOCK_PARITY = 2e-5  # absolute, tokens of a few blocks in fp32

# Names of what each kind of file holds beside the encoder.
VIDEOMAE_HEADS = {
    "pre-training": ("encoder.norm.weight", "mask_token", "encoder_to_decoder.weight", "decoder.blocks.0.attn.q_bias"),
    "fine-tuning": ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"),
}
TRANSFORMERS_HEADS = {
    "pre-training": ("videomae.layernorm.weight", "mask_token", "encoder_to_decoder.weight", "decoder.head.bias"),
    "fine-tuning": ("fc_norm.weight", "classifier.bias"),
}
SPELLINGS = [
    pytest.param({"query": "q_bias", "value": "v_bias"}, id="q_bias"),
    pytest.param({"query": "query.bias", "value": "value.bias"}, id="query.bias"),
]


def small_vit(**options: int) -> ViTEncoder:
    torch.manual_seed(0)
    return ViTEncoder(**{"frames": 4, "size": 32, "patch": 8, "dim": 24, "depth": 2, "heads": 2} | options).eval()  # type: ignore[arg-type]


def small_public_vit() -> ViTEncoder:
    """Without what no public file has: a bias of the keys."""
    encoder = small_vit()
    for block in encoder.blocks:
        torch.nn.init.normal_(block.attn.qkv.bias)
        torch.nn.init.zeros_(block.attn.qkv.bias[24:48])
    return encoder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 7}, "frames=7 does not fit the tokens: it must be a multiple of 2"),
        ({"frames": 0}, "frames=0 does not fit the tokens"),
        ({"size": 60}, "size=60 does not fit the tokens: it must be a multiple of 16"),
    ],
)
def test_sizes_must_fit_the_tokens(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("vit_tiny", **arguments)


def test_patches_are_the_pixels_of_each_token() -> None:
    clip = torch.arange(2 * 3 * 4 * 6 * 6).view(2, 3, 4, 6, 6)
    patches = patchify(clip, 3)
    assert patches.shape == (2, 8, 3, 18)
    for token, (time, row, column) in enumerate((t, h, w) for t in range(2) for h in range(2) for w in range(2)):
        covered = clip[:, :, 2 * time : 2 * time + 2, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert torch.equal(patches[:, token], covered.flatten(2))


def test_the_embedding_is_the_convolution() -> None:
    encoder = small_vit()
    clip = random_clip(encoder.input_spec)
    convolved = encoder.patch_embed(clip).flatten(2).transpose(1, 2)  # [B, N, D]
    assert torch.allclose(encoder.embed(clip), convolved + encoder.positions, atol=1e-6)
    visible = torch.tensor([[3, 0, 17], [31, 2, 1]])
    expected = torch.stack([(convolved + encoder.positions)[clip_index, row] for clip_index, row in enumerate(visible)])
    assert torch.allclose(encoder.embed(clip, visible), expected, atol=1e-6)


def test_positions_are_sines_and_cosines_of_the_token_s_number() -> None:
    table = sincos_positions(5, 6)
    for place in range(5):
        for column in range(6):
            angle = place / 10000 ** (2 * (column // 2) / 6)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert table[place, column].item() == pytest.approx(expected, abs=1e-6)
    assert "positions" not in small_vit().state_dict()


def test_hidden_tokens_are_not_seen() -> None:
    encoder = small_vit()
    clip = random_clip(encoder.input_spec)
    visible = torch.tensor([[5, 16, 30], [0, 1, 2]])
    changed = clip.clone()
    hidden = torch.ones(2, encoder.num_tokens, dtype=torch.bool).scatter(1, visible, False)
    area = hidden.view(2, 1, *encoder.grid)
    for axis, times in ((2, 2), (3, 8), (4, 8)):
        area = area.repeat_interleave(times, axis)
    changed[area.expand_as(clip)] += 3
    before, after = (encoder.forward_tokens(one, visible) for one in (clip, changed))
    assert [tokens.shape for tokens in before] == [(2, 3, 24)] * 2
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not torch.allclose(encoder(changed), encoder(clip))


def test_all_tokens_named_in_any_order_are_all_tokens() -> None:
    encoder = small_vit()
    clip = random_clip(encoder.input_spec)
    order = torch.stack([torch.randperm(encoder.num_tokens) for _ in range(2)])
    for tokens, shuffled in zip(encoder.forward_layers(clip), encoder.forward_tokens(clip, order), strict=True):
        expected = torch.stack([one[index] for one, index in zip(tokens, order, strict=True)])
        assert torch.allclose(shuffled, expected, atol=1e-5)


def test_linear_layers_start_at_xavier_s_scale() -> None:
    block = create_model("vit_tiny").blocks[1]
    assert block.attn.qkv.weight.std().item() == pytest.approx((2 / (4 * 128)) ** 0.5, rel=0.05)
    assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / (5 * 128)) ** 0.5, rel=0.05)
    assert not block.attn.qkv.bias.any()


# Public layouts -------------------------------------------------------------------------------------------------------


def assert_loads(state: dict[str, Tensor], layout: str, expected: ViTEncoder, heads: tuple[str, ...]) -> None:
    found = detect_layout(state, "vit_b", "file")
    assert found.name == layout
    encoder = small_vit()
    for parameter in encoder.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    left = load_layout(encoder, state, found, "file").left
    assert set(left) == {name.removeprefix("encoder.").removeprefix("videomae.") for name in heads}
    for name, value in expected.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name


@pytest.mark.parametrize("kind", VIDEOMAE_HEADS)
def test_videomae_files_of_both_kinds_load(kind: str) -> None:
    encoder = small_public_vit()
    prefix = "encoder." if kind == "pre-training" else ""
    state = {f"{prefix}{name}": value for name, value in videomae_names(encoder.state_dict()).items()}
    state |= {name: torch.zeros(2) for name in VIDEOMAE_HEADS[kind]}
    assert_loads(state, "videomae", encoder, VIDEOMAE_HEADS[kind])


@pytest.mark.parametrize("biases", SPELLINGS)
@pytest.mark.parametrize("kind", [*TRANSFORMERS_HEADS, "bare"])
def test_transformers_files_of_all_kinds_load(kind: str, biases: dict[str, str]) -> None:
    encoder = small_public_vit()
    prefix, heads = ("", ()) if kind == "bare" else ("videomae.", TRANSFORMERS_HEADS[kind])
    state = {f"{prefix}{name}": value for name, value in transformers_names(encoder.state_dict(), biases).items()}
    state |= {name: torch.zeros(2) for name in heads}
    assert_loads(state, "hf-videomae", encoder, heads)


@pytest.mark.parametrize(
    ("extra", "absent", "message"),
    [
        ("blocks.0.attn.scale", None, r"has no tensors of these names: blocks\.0\.attn\.scale"),  # cosine attention
        ("pos_embed", None, r"has no tensors of these names: pos_embed"),  # learned positions
        (None, "blocks.1.attn.v_bias", r"has no tensors of these names: blocks\.1\.attn\.q_bias"),
        (None, "blocks.1.mlp.fc1.bias", r"lacks tensors of the encoder: blocks\.1\.mlp\.fc1\.bias"),
    ],
)
def test_files_of_another_form_are_refused(extra: str | None, absent: str | None, message: str) -> None:
    state = videomae_names(small_vit().state_dict())
    if extra:
        state[extra] = torch.zeros(2)
    state.pop(absent, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        load_layout(small_vit(), state, LAYOUTS["videomae"], "file")


def test_a_transformers_file_without_a_projection_is_refused() -> None:
    state = transformers_names(small_vit().state_dict(), {"query": "query.bias", "value": "value.bias"})
    del state["encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(UserError, match=r"lacks tensors of the encoder: blocks\.1\.attn\.qkv\.weight"):
        load_layout(small_vit(), state, LAYOUTS["hf-videomae"], "file")


# Parity with VideoMAE -------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_visible_tokens_are_videomae_s(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "videomae_tiny.safetensors")
    encoder = vit_from_config(entry["cfg"]).eval()
    state, clip = state_of(tensors), tensors["x"]
    left = load_layout(encoder, state, detect_layout(state, "vit_b", "oracle"), "oracle").left
    assert (encoder.positions - tensors["pos_embed_enc"][0]).abs().max() < 1e-6
    assert (encoder.embed(clip) - encoder.positions - tensors["patch_embed"]).abs().max() < 1e-5
    visible = tensors["mask"].logical_not().nonzero()[:, 1].view(len(clip), -1)
    outputs = encoder.forward_tokens(clip, visible)
    for index, tokens in enumerate(outputs):
        assert (tokens - tensors[f"encoder.block{index}"]).abs().max() < BLOCK_PARITY
    norm = layer_norm(outputs[-1], (encoder.dim,), left["norm.weight"], left["norm.bias"], NORM_EPS)
    assert (norm - tensors["encoder_out"]).abs().max() < BLOCK_PARITY


@pytest.mark.oracle
def test_small_classifier_is_videomae_s(oracles: Path) -> None:
    pretraining, _ = oracle_entry(oracles, "videomae_tiny.safetensors")
    _, tensors = oracle_entry(oracles, "videomae_tiny_ft.safetensors")
    encoder = vit_from_config(pretraining["cfg"])
    state = state_of(tensors)
    left = load_layout(encoder, state, detect_layout(state, "vit_b", "oracle"), "oracle").left
    model = Classifier(encoder, tensors["logits"].shape[1]).eval()
    model.load_state_dict(
        model.state_dict() | {name.replace("fc_norm.", "norm."): value for name, value in left.items()}
    )
    with torch.no_grad():
        assert (model.norm(encoder(tensors["x"])) - tensors["features"]).abs().max() < 1e-5
        assert (model(tensors["x"]) - tensors["logits"]).abs().max() < 1e-5


@pytest.mark.oracle
def test_published_classifier_is_videomae_s(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "videomae_base_ft.safetensors")
    _, _, frames, size, _ = entry["x_shape"]
    with uninitialised():
        model = Classifier(create_model("vit_b", frames=frames, size=size), tensors["logits"].shape[1]).eval()
    parameters = {name: value.data for name, value in model.named_parameters()}
    parameters = videomae_names({classifier_name(name): value for name, value in parameters.items()})
    fill_parameters(parameters, entry["param_seed"])
    assert parameter_sha256(parameters) == entry["sha256"]
    assert sum(value.numel() for value in parameters.values()) == entry["params"]
    with torch.no_grad():
        logits = model(random_input(entry["x_seed"], entry["x_shape"]))
    assert (logits - tensors["logits"]).abs().max() < 2e-5


@pytest.mark.oracle
def test_groups_are_videomae_s(oracles: Path) -> None:
    theirs, optim = recorded_groups(oracles, "videomae_ft_B")
    with torch.device("meta"):
        model = Classifier(create_model("vit_b"), 400)
    parameters = dict(model.named_parameters())
    ours = {
        key: set(videomae_names({classifier_name(name): parameters[name] for name in names}))
        for key, names in decay_groups(model, optim).items()
    }
    assert ours == theirs


def classifier_name(name: str) -> str:
    """VideoMAE's name of a classifier's parameter, but for what is inside the blocks."""
    return name.removeprefix("encoder.") if name.startswith("encoder.") else name.replace("norm.", "fc_norm.")
