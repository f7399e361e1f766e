"""BEVT: parity with the recorded original, words and cells agree, nothing hidden leaks, and it learns."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.oracle_helpers import Differences, oracle_entry, state_of, swin_encoder
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, shifted_window_attention_3d

from islr.errors import UserError
from islr.models import create_model
from islr.models.layouts import LAYOUTS, rename
from islr.models.swin import SwinEncoder
from islr.training.optim import OptimConfig, parameter_groups
from pretrain.bevt import BEVT, CELL, BEVTConfig, open_tokenizer
from pretrain.pictures import token_colours


class MovingColours:
    """A clip of three squares of plain colours that move over another; quacks like a clip source."""

    length, fps = 24, 25.0

    def __init__(self, seed: int, size: int = 80) -> None:
        rng = np.random.default_rng(seed)
        self.size, self.start, self.speed = size, rng.uniform(0, size - 30, (3, 2)), rng.uniform(-1, 1, (3, 2))
        self.colours = rng.choice([30, 128, 225], (4, 3)).astype(np.uint8)

    def read(self, indices: np.ndarray) -> np.ndarray:
        frames = np.broadcast_to(self.colours[3], (len(indices), self.size, self.size, 3)).copy()
        for frame, index in zip(frames, indices, strict=True):
            for colour, start, speed in zip(self.colours, self.start, self.speed, strict=False):
                top, left = np.clip(start + speed * index, 0, self.size - 30).astype(int)
                frame[top : top + 30, left : left + 30] = colour
        return frames


class MeanColours(nn.Module):
    """A word for each of 3 x 3 x 3 mean colours of 8 x 8 pixels."""

    vocabulary, stride = 27, 8

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([85.0, 170.0]))
        self.seen: list[tuple[int, ...]] = []

    def tokens(self, frames: Tensor) -> Tensor:
        assert frames.dtype == torch.uint8
        self.seen.append(tuple(frames.shape))
        digits = torch.bucketize(nn.functional.avg_pool2d(frames.float(), self.stride), self.levels)  # [N, 3, h, w]
        return digits[:, 0] * 9 + digits[:, 1] * 3 + digits[:, 2]


class Recorded(nn.Module):
    """Gives the recorded words, whatever the frames."""

    def __init__(self, words: Tensor, vocabulary: int) -> None:
        super().__init__()
        self.words, self.vocabulary, self.stride = words, vocabulary, 8

    def tokens(self, frames: Tensor) -> Tensor:
        assert frames.shape == (len(self.words), 3, self.words.shape[1] * 8, self.words.shape[2] * 8)
        return self.words


def small_recipe(**options: object) -> BEVT:
    torch.manual_seed(0)
    config = BEVTConfig(**options)
    return BEVT(create_model("swin_tiny"), config, MeanColours())  # type: ignore[arg-type]


def small_batch(recipe: BEVT, clips: int = 4) -> dict[str, Tensor]:
    view = BEVT.views(recipe.config, recipe.encoder.input_spec)
    samples = [view(MovingColours(i), np.random.default_rng(i)) for i in range(clips)]  # type: ignore[arg-type]
    return {key: torch.stack([torch.as_tensor(sample[key]) for sample in samples]) for key in samples[0]}


def test_views_give_pixels_and_masks_from_the_sample_s_generator() -> None:
    recipe = small_recipe(images=2)
    batch, again = small_batch(recipe), small_batch(recipe)
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "clip": (torch.uint8, (4, 3, 8, 64, 64)),
        "mask": (torch.bool, (4, 4, 4, 4)),
        "images": (torch.uint8, (4, 2, 3, 64, 64)),
        "image_masks": (torch.bool, (4, 2, 4, 4)),
    }
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["images"][:, 0], batch["images"][:, 1])
    assert (batch["mask"].sum(dim=(2, 3)).amax(dim=1) <= 8).all()
    assert set(small_batch(small_recipe(images=0))) == {"clip", "mask"}


def test_every_word_describes_its_own_cell() -> None:
    recipe = small_recipe()
    levels = torch.randint(0, 3, (2, 3, 8, 4, 4), generator=torch.Generator().manual_seed(0))
    clip = (levels * 120 + 5).to(torch.uint8).repeat_interleave(CELL, dim=3).repeat_interleave(CELL, dim=4)
    assert torch.equal(recipe.targets(clip), levels[:, 0] * 9 + levels[:, 1] * 3 + levels[:, 2])
    assert recipe.tokenizer.seen == [(16, 3, 32, 32)]


def test_words_do_not_depend_on_the_precision_of_training() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    recipe.tokenizer.tokens = lambda frames: torch.full((len(frames), 4, 4), int(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        assert not recipe.targets(batch["clip"]).any()
        assert torch.isfinite(recipe(batch)["loss"])


def test_nothing_hidden_reaches_the_prediction() -> None:
    recipe = small_recipe().eval()
    mask = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    mask[:, 1:3, 1:3, 1:3] = True
    clip = torch.randn(2, 3, 8, 64, 64)
    inside, outside = clip.clone(), clip.clone()
    inside[:, :, 2:6, 16:48, 16:48] += 1
    outside[:, :, 6, :16] += 1
    before = recipe.features(clip, mask)
    assert before.shape == (2, 8, 4, 4, recipe.encoder.dim)
    assert torch.equal(recipe.features(inside, mask), before)
    assert not torch.allclose(recipe.features(outside, mask), before)
    image, plane = clip[:, :, 2], mask[:, 1]
    before = recipe.image_features(image, plane)
    assert before.shape == (2, 4, 4, recipe.encoder.dim)
    assert torch.equal(recipe.image_features(inside[:, :, 2], plane), before)
    assert not torch.allclose(recipe.image_features(outside[:, :, 6], plane), before)


def test_loss_looks_at_the_words_of_hidden_cells_alone() -> None:
    recipe = small_recipe(images=0)
    batch = small_batch(recipe)
    words = recipe.targets(batch["clip"])
    hidden = batch["mask"].repeat_interleave(2, dim=1)

    def loss_with(changed: Tensor) -> float:
        recipe.tokenizer.tokens = lambda frames: changed.flatten(0, 1)
        return recipe(batch)["loss"].item()

    before = loss_with(words)
    assert loss_with(torch.where(hidden, words, 26 - words)) == before
    assert loss_with(torch.where(hidden, 26 - words, words)) != before


def test_a_head_that_says_nothing_scores_the_logarithm_of_the_vocabulary() -> None:
    recipe = small_recipe(image_weight=0.5)
    nn.init.zeros_(recipe.head.weight)
    out = recipe(small_batch(recipe))
    assert out["video_loss"].item() == pytest.approx(math.log(27))
    assert out["image_loss"].item() == pytest.approx(math.log(27))
    assert out["loss"].item() == pytest.approx(1.5 * math.log(27))


def test_reported_numbers_judge_the_loss() -> None:
    recipe = small_recipe()
    words = torch.tensor([[3, 3], [3, 5]])
    assert recipe.entropy(words).item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert recipe.entropy(torch.arange(27)).exp().item() == pytest.approx(27, rel=1e-5)
    batch = small_batch(recipe)
    nn.init.zeros_(recipe.head.weight)
    out = recipe(batch)
    hidden = recipe.targets(batch["clip"])[batch["mask"].repeat_interleave(2, dim=1)]
    assert out["accuracy"].item() == pytest.approx((hidden == 0).float().mean().item())
    assert out["unigram_entropy"].item() == pytest.approx(recipe.entropy(hidden).item())
    assert 1 <= out["target_perplexity"] <= 27


def test_gradient_reaches_everything_but_the_tokenizer() -> None:
    recipe = small_recipe().train()
    recipe(small_batch(recipe))["loss"].backward()
    for name, parameter in recipe.named_parameters():
        if name.startswith("tokenizer."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    assert not recipe.tokenizer.training
    groups = parameter_groups(recipe, OptimConfig(lr=1, epochs=1, batch_size=1))
    names = {name for group in groups for name in group["names"]}
    assert {name for name, _ in recipe.named_parameters()} - names == {"tokenizer.levels"}


def test_it_learns_more_than_word_frequencies() -> None:
    torch.manual_seed(0)
    encoder = SwinEncoder(
        frames=2, size=64, depths=(1, 1, 1, 1), embed_dim=16, num_heads=(1, 2, 4, 8), window=(2, 2, 2), init="fan_in"
    )
    recipe = BEVT(encoder, BEVTConfig(), MeanColours())
    batch = small_batch(recipe)
    optimizer = torch.optim.AdamW([p for p in recipe.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        out = recipe(batch)
        out["loss"].backward()
        optimizer.step()
    assert out["video_loss"] < 0.3 * out["unigram_entropy"]
    assert out["accuracy"] > 0.8
    assert out["image_accuracy"] > 0.8


def test_pictures_are_large_and_show_what_is_hidden() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    panels = recipe.pictures(batch)
    assert list(panels) == ["input", "masked", "target tokens", "predicted tokens"]
    for images in panels.values():
        assert images.dtype == np.uint8
        assert images.shape[0] == 4
        assert min(images.shape[1:3]) >= 256
    side = panels["input"].shape[1]
    differs = (panels["input"] != panels["masked"]).any(axis=-1).reshape(4, 4, side // 4, 4, side // 4).mean((2, 4))
    fullest = batch["mask"].sum(dim=(2, 3)).argmax(dim=1)
    assert np.array_equal(differs > 0.5, batch["mask"][torch.arange(4), fullest].numpy())


def test_words_have_the_mean_colour_of_their_cells() -> None:
    frames = np.zeros((1, 2, 4, 3), np.uint8)
    frames[:, :, 2:] = (10, 20, 30)
    frames[:, 0, 2:] += 10
    colours = token_colours(frames, np.array([[[0, 2]]]), 4)
    assert colours.tolist() == [[0, 0, 0], [96, 96, 96], [15, 25, 35], [96, 96, 96]]


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match="a multiple of 32, not 48"):
        BEVT.views(BEVTConfig(), create_model("swin_tiny", size=48).input_spec)
    with pytest.raises(UserError, match="bevt trains swin encoders, not MViTEncoder"):
        BEVT(create_model("mvit_tiny"), BEVTConfig(), MeanColours())  # type: ignore[arg-type]
    three = SwinEncoder(frames=4, size=64, depths=(1, 1, 1), embed_dim=8, num_heads=(1, 1, 1), window=(2, 2, 2))
    with pytest.raises(UserError, match="bevt needs a Swin of four stages, not 3"):
        BEVT(three, BEVTConfig(), MeanColours())
    with pytest.raises(UserError, match=r"recipe\.tokenizer is empty"):
        open_tokenizer("")
    for options in ({"tube": (0.8, 0.5)}, {"tube": (0.5, 1.5)}, {"smallest_block": 0.5, "largest_block": 0.2}):
        with pytest.raises(ValidationError, match=r"tube must be|is above largest_block"):
            BEVTConfig(**options)  # type: ignore[arg-type]


# Parity with BEVT -----------------------------------------------------------------------------------------------------

BESIDE = {  # ours -> the original's, without what follows the last dot
    "enlarge": "fpn_s.0",
    "fuse": "lm_down_st.0",
    "to_frames": "fpn_t.0",
    "image_embed": "patch_embed_2d.proj",
    "image_norm": "patch_embed_2d.norm",
    "image_enlarge": "fpn.0",
    "image_fuse": "lm_down",
}


def oracle_recipe(entry: dict, state: dict[str, Tensor]) -> BEVT:
    encoder = swin_encoder(entry["params"], state, "bevt")
    recipe = BEVT(encoder, BEVTConfig(), MeanColours())
    beside = rename(state, LAYOUTS["bevt"], "oracle").left
    recipe.mask_token.data.copy_(beside["mask_token"].flatten())
    for ours, theirs in BESIDE.items():
        for kind in ("weight", "bias"):
            recipe.get_parameter(f"{ours}.{kind}").data.copy_(beside[f"{theirs}.{kind}"])
    return recipe.eval()


def image_bug(attention: ShiftedWindowAttention3d, x: Tensor) -> Tensor:
    """Attention as the original's image stream has it: every block is masked as if it shifted.

    And those that shift do so where one window covers the map.
    """
    window, shift = [1, *attention.window_size[1:]], [0, *(side // 2 for side in attention.window_size[1:])]
    stays = not any(attention.shift_size)
    result = shifted_window_attention_3d(
        torch.roll(x, shift, (1, 2, 3)) if stays else x,  # undoes the shift that comes with the mask
        attention.qkv.weight,
        attention.proj.weight,
        attention.get_relative_position_bias(window),
        window,
        attention.num_heads,
        shift,
        qkv_bias=attention.qkv.bias,
        proj_bias=attention.proj.bias,
    )
    return torch.roll(result, [-step for step in shift], (1, 2, 3)) if stays else result


@pytest.mark.oracle
def test_video_features_are_bevt_s(oracles: Path, differences: Differences, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, tensors = oracle_entry(oracles, "bevt_backbone_tiny.safetensors", "svt_bevt")
    recipe = oracle_recipe(entry, state_of(tensors))
    monkeypatch.setattr(recipe.encoder, "check_clip", lambda clip: None)  # the recorded clip has a size of its own
    clip, mask = tensors["x_video"], tensors["mask_video"].bool()
    with torch.no_grad():
        for name, hidden in (("y_video", mask), ("y_video_nomask", torch.zeros_like(mask))):
            differences.within(name, recipe.features(clip, hidden), tensors[name], absolute=1e-5)
        outputs = recipe.encoder.forward_tokens(clip)
    for name, end in zip(("stage3_nomask", "stage4_nomask"), recipe.encoder.stage_ends[-2:], strict=True):
        differences.within(name, outputs[end].permute(0, 4, 1, 2, 3), tensors[name], absolute=1e-5)


@pytest.mark.oracle
def test_image_features_are_bevt_s_with_its_bug_put_back(
    oracles: Path, differences: Differences, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, tensors = oracle_entry(oracles, "bevt_backbone_tiny.safetensors", "svt_bevt")
    recipe = oracle_recipe(entry, state_of(tensors))
    monkeypatch.setattr(recipe.encoder, "check_clip", lambda clip: None)
    image, mask = tensors["x_image"], tensors["mask_image"].bool()
    with torch.no_grad():
        right = recipe.image_features(image, mask).flatten(1, 2)
    assert (right - tensors["y_image"]).abs().max() > 0.1
    video = recipe.features(tensors["x_video"], tensors["mask_video"].bool())
    monkeypatch.setattr(ShiftedWindowAttention3d, "forward", image_bug)
    with torch.no_grad():
        bare = recipe.image_features(image, torch.zeros_like(mask)).flatten(1, 2)
    differences.within("y_image_nomask", bare, tensors["y_image_nomask"], absolute=1e-5)
    features = recipe.image_features(image, mask)
    differences.within("y_image", features, tensors["y_image"], absolute=1e-5)
    (video.square().mean() + features.square().mean()).backward()
    recorded = tensors["grad_mask_token"].flatten()
    assert recipe.mask_token.grad is not None
    differences.within("gradient of the mask token", recipe.mask_token.grad, recorded, relative=1e-4)


@pytest.mark.oracle
def test_words_loss_and_gradients_are_bevt_s(oracles: Path, differences: Differences) -> None:
    _, tensors = oracle_entry(oracles, "bevt_mim_loss.safetensors", "svt_bevt")
    for kind, short in (("video", "3d"), ("image", "2d")):
        words = tensors[f"tokenizer_logits_{kind}"].argmax(dim=1)  # [N, h, w]
        logits = tensors[f"logits_{kind}"].clone().requires_grad_()
        mask = tensors[f"mask_{kind}"].bool()
        moments = 1 if kind == "image" else mask.shape[1]
        recipe = BEVT(create_model("swin_tiny"), BEVTConfig(), Recorded(words, logits.shape[-1]))
        frames = torch.zeros(len(mask), 3, moments, *(side * CELL for side in mask.shape[-2:]), dtype=torch.uint8)
        found = recipe.targets(frames).view(mask.shape)
        differences.within(f"target words, {kind}", found, tensors[f"tokens_{kind}"])
        loss = recipe.loss(logits.view(*mask.shape, -1)[mask], found[mask])
        loss.backward()
        assert logits.grad is not None
        differences.within(f"loss, {kind}", loss, tensors[f"loss_cls_{short}"], absolute=1e-6)
        differences.within(f"gradient, {kind}", logits.grad, tensors[f"grad_logits_{kind}"], absolute=1e-7)
        accuracy = (logits.view(*mask.shape, -1)[mask].argmax(dim=1) == found[mask]).float().mean()
        assert accuracy.item() == pytest.approx(tensors[f"mask_acc_{short}"].item(), abs=1e-6)
