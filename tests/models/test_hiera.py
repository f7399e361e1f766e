"""Hiera: windows and pooling against a slow reading of the paper; image weights; public names."""

import pytest
import torch
from timm.models.hiera import Hiera
from torch import Tensor, nn

from islr.errors import UserError
from islr.models import create_model
from islr.models.hiera import HIERA_BIAS, MASK_UNIT, HieraEncoder
from islr.models.layouts import LAYOUTS, detect_layout, load_layout

TINY = {"embed_dim": 24, "stages": (1, 1, 2, 1)}  # of hiera_tiny, for timm's class


@pytest.fixture
def clip() -> Tensor:
    return torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))


def _pooled(tokens: Tensor, stride: int) -> Tensor:
    """Largest of each stride x stride tokens in space, `[B, t, h, w, D]`."""
    if stride == 1:
        return tokens
    batch, t, h, w, dim = tokens.shape
    return tokens.view(batch, t, h // stride, stride, w // stride, stride, dim).amax(dim=(3, 5))


def _attention(block: nn.Module, tokens: Tensor, stride: int, side: int | None) -> Tensor:
    """Attention within windows of `side` x `side` tokens of one moment, or among all; queries are pooled."""
    attn = block.attn
    batch, t, h, w, _ = tokens.shape
    q, k, v = attn.qkv(tokens).chunk(3, dim=-1)
    q = _pooled(q, stride)
    result = torch.empty(*q.shape)
    windows = [(slice(None), slice(None), slice(None))]
    if side is not None:
        places = [(m, y, x) for m in range(t) for y in range(0, h, side) for x in range(0, w, side)]
        windows = [(slice(m, m + 1), slice(y, y + side), slice(x, x + side)) for m, y, x in places]
    for moment, rows, columns in windows:
        query_rows, query_columns = rows, columns
        if side is not None:
            query_rows, query_columns = (slice(part.start // stride, part.stop // stride) for part in (rows, columns))
        queries = q[:, moment, query_rows, query_columns]
        parts = [
            part.reshape(batch, -1, attn.heads, attn.head_dim).transpose(1, 2)
            for part in (queries, k[:, moment, rows, columns], v[:, moment, rows, columns])
        ]
        scores = parts[0] @ parts[1].transpose(-1, -2) / attn.head_dim**0.5
        mixed = (scores.softmax(dim=-1) @ parts[2]).transpose(1, 2).reshape(queries.shape)
        result[:, moment, query_rows, query_columns] = mixed
    return attn.proj(result)


def _slow_layers(encoder: HieraEncoder, clip: Tensor, stages: tuple[int, ...], q_pool: int) -> list[Tensor]:
    """The tokens after each block, by arXiv 2306.00989 section 3 on tokens in their places."""
    tokens = encoder.patch_embed.proj(clip).permute(0, 2, 3, 4, 1)  # [B, t, h, w, D]
    t, h, w = tokens.shape[1:4]
    tokens = tokens + encoder.pos_embed_temporal.view(t, 1, 1, -1) + encoder.pos_embed_spatial.view(h, w, -1)
    side, index, layers = MASK_UNIT[1], 0, []
    for stage, depth in enumerate(stages):
        for number in range(depth):
            block = encoder.blocks[index]
            stride = 2 if number == 0 and 0 < stage <= q_pool else 1
            # A stage's first block still sees as the stage before it did: it pools inside its windows.
            windowed = (stage - (number == 0 and stage > 0)) < 2
            normed = block.norm1(tokens)
            if number == 0 and stage > 0:
                tokens = _pooled(block.proj(normed), stride)
            tokens = tokens + _attention(block, normed, stride, side if windowed else None)
            tokens = tokens + block.mlp(block.norm2(tokens))
            side //= stride
            layers.append(tokens.flatten(1, 3))
            index += 1
    return layers


@pytest.mark.parametrize("q_pool", [2, 3])
@torch.no_grad()
def test_tokens_are_those_of_a_slow_reading_of_the_paper(clip: Tensor, q_pool: int) -> None:
    encoder = create_model("hiera_tiny", q_pool=q_pool).eval()
    assert isinstance(encoder, HieraEncoder)
    wanted = _slow_layers(encoder, clip, TINY["stages"], q_pool)  # type: ignore[arg-type]
    layers = encoder.forward_layers(clip)
    assert [layer.shape for layer in layers] == [layer.shape for layer in wanted]
    for layer, want in zip(layers, wanted, strict=True):
        assert (layer - want).abs().max() < 1e-4 * want.abs().max()
    assert torch.allclose(encoder(clip), wanted[-1].mean(dim=1), atol=1e-4)


def test_hiera_b_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder = create_model("hiera_b")
        head = sum(p.numel() for p in (*nn.LayerNorm(encoder.dim).parameters(), *nn.Linear(768, 400).parameters()))
    assert (encoder.dim, len(encoder.blocks)) == (768, 24)
    million = (sum(p.numel() for p in encoder.parameters()) + head) / 1e6
    assert round(million) == 51  # arXiv 2306.00989: Hiera-B on video
    with torch.device("meta"):
        longer = create_model("hiera_b", frames=128)
    assert longer.pos_embed_temporal.shape == (1, 64, 96)


def test_initialisation() -> None:
    published = create_model("hiera_tiny", init="hiera")
    assert (published.blocks[0].attn.qkv.bias == HIERA_BIAS).all()
    assert (published.blocks[0].norm1.bias == HIERA_BIAS).all()
    for weight in (published.blocks[-1].mlp.fc1.weight, published.patch_embed.proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    narrow = create_model("hiera_tiny")
    x = torch.randn(1000, narrow.dim)
    assert narrow.blocks[-1].mlp.fc1(x).std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 7}, "frames=7 .* multiple of 2"),
        ({"size": 48}, "size=48 .* multiple of 32"),
        ({"q_pool": 1}, "q_pool=1"),
        ({"init": "timm"}, "init='timm' is unknown"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("hiera_tiny", **arguments)


@torch.no_grad()
def test_image_weights_give_a_still_clip_what_they_give_the_image() -> None:
    torch.manual_seed(0)
    image = Hiera(img_size=(64, 64), num_classes=5, **TINY).eval()  # type: ignore[arg-type]
    layout = detect_layout(image.state_dict(), "hiera_tiny", "timm")
    assert layout.name == "hiera-image"
    encoder = create_model("hiera_tiny", **layout.arguments(image.state_dict())).eval()
    assert encoder.input_spec.mean == (0.485, 0.456, 0.406)
    load_layout(encoder, image.state_dict(), layout, "timm")
    encoder.pos_embed_temporal.zero_()
    picture = torch.randn(2, 3, 64, 64)
    tokens = encoder.forward_layers(picture[:, :, None].expand(-1, -1, 8, -1, -1))
    _, wanted = image.forward_intermediates(picture, output_fmt="NHWC")
    for end, want in zip((0, 1, 3, 4), wanted, strict=True):
        want = want.flatten(1, 2)
        for moment in tokens[end].unflatten(1, (4, -1)).unbind(1):
            assert (moment - want).abs().max() < 1e-5


def test_the_projects_own_names_are_known() -> None:
    encoder = create_model("hiera_tiny")
    state = dict(encoder.state_dict())
    beside = {
        "norm.weight": (192,),
        "head.projection.bias": (400,),
        "encoder_norm.bias": (192,),
        "multi_scale_fusion_heads.0.weight": (192, 24, 1, 4, 4),
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 64, 512),
        "decoder_embed.weight": (512, 192),
        "decoder_blocks.0.attn.qkv.weight": (1536, 512),
        "decoder_norm.weight": (512,),
        "decoder_pred.bias": (768,),
    }
    state |= {name: torch.zeros(shape) for name, shape in beside.items()}
    fresh = create_model("hiera_tiny")
    renamed = load_layout(fresh, state, detect_layout(state, "hiera_tiny", "file"), "file")
    assert renamed.left.keys() == beside.keys()
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(UserError, match=r"layout hiera has no tensors of these names: blocks\.0\.ls1\.gamma"):
        load_layout(fresh, state | {"blocks.0.ls1.gamma": torch.ones(24)}, LAYOUTS["hiera"], "file")
