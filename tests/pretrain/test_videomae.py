"""VideoMAE: parity with the recorded original, what it hides and rebuilds, and that it learns."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.oracle_helpers import (
    Differences,
    fill_parameters,
    oracle_entry,
    oracle_file,
    parameter_sha256,
    random_input,
    state_of,
)
from support.videomae_names import videomae_names, vit_from_config
from torch import Tensor

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models import create_model
from islr.models.layouts import detect_layout, load_layout
from islr.models.vit import TUBELET, ViTEncoder, patchify
from islr.training.optim import OptimConfig, learning_rate, parameter_groups
from pretrain.masks.draw import tube_mask
from pretrain.videomae import VideoMAE, VideoMAEConfig, tube_motion

PATCH = 16  # pixels along a token's side in the published sizes
SMALL: dict[str, Any] = {
    "mask_pixels": 8,
    "mask_ratio": 0.75,
    "decoder_dim": 64,
    "decoder_depth": 2,
    "decoder_heads": 4,
}


class MovingStripes:
    """Stripes that drift behind a square that moves along them; quacks like a clip source."""

    length, fps = 24, 25.0

    def __init__(self, seed: int, size: int = 80) -> None:
        rng = np.random.default_rng(seed)
        self.size, self.angle, self.start = size, rng.uniform(0, np.pi), rng.uniform(0, size - 20, 2)

    def read(self, indices: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[: self.size, : self.size]
        along = (math.cos(self.angle) * x + math.sin(self.angle) * y)[None] + indices[:, None, None]
        frames = (128 + 90 * np.sin(along / 5))[..., None].repeat(3, axis=3).astype(np.uint8)
        for frame, time in zip(frames, indices, strict=True):
            top, left = np.clip(self.start + 0.5 * time, 0, self.size - 20).astype(int)
            frame[top : top + 20, left : left + 20] = (230, 60, 40)
        return frames


def small_recipe(**options: Any) -> VideoMAE:
    torch.manual_seed(0)
    return VideoMAE(create_model("vit_tiny", size=48, patch=8), VideoMAEConfig(**(SMALL | options)))  # type: ignore[arg-type]


def small_batch(recipe: VideoMAE, clips: int = 4) -> dict[str, Tensor]:
    view = VideoMAE.views(recipe.config, recipe.encoder.input_spec)
    samples = [view(MovingStripes(i), np.random.default_rng(i)) for i in range(clips)]  # type: ignore[arg-type]
    return {
        "clip": torch.stack([sample["clip"] for sample in samples]),
        "mask": torch.stack([torch.from_numpy(sample["mask"]) for sample in samples]),
    }


@pytest.mark.parametrize("mask", ["tube", "motion_tube"])
def test_views_give_pixels_and_tubes_from_the_sample_s_generator(mask: str) -> None:
    recipe = small_recipe(mask=mask)
    batch, again = small_batch(recipe), small_batch(recipe)
    assert batch["clip"].shape == (4, 3, 8, 48, 48)
    assert batch["clip"].dtype == torch.uint8
    assert batch["mask"].shape == (4, 4, 6, 6)
    assert (batch["mask"] == batch["mask"][:, :1]).all()
    assert (batch["mask"][:, 0].sum(dim=(1, 2)) == 27).all()
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["mask"][0], batch["mask"][1])


def test_motion_is_the_change_between_frames_at_each_place() -> None:
    clip = np.full((3, 4, 8, 12), 100, np.uint8)
    clip[:, 2, 4:, 8:] = 90
    motion = tube_motion(clip, 4)
    assert motion.tolist() == [[0, 0, 0], [0, 0, pytest.approx(100 * 2 / 3)]]


def test_motion_tubes_hide_where_the_clip_moves() -> None:
    recipe = small_recipe(mask="motion_tube", guidance=100.0, video={"scale": (1.0, 1.0), "ratio": (1.0, 1.0)})
    spec = recipe.encoder.input_spec

    class Corner:
        length, fps = 8, 25.0

        def read(self, indices: np.ndarray) -> np.ndarray:
            frames = np.zeros((len(indices), 48, 48, 3), np.uint8)
            frames[:, 24:, :] = (indices % 2 * 200).astype(np.uint8)[:, None, None, None]
            return frames

    mask = VideoMAE.views(recipe.config, spec)(Corner(), np.random.default_rng(0))["mask"]  # type: ignore[arg-type]
    assert mask[:, 3:].all()
    assert mask[0, :3].sum() == 27 - 18


def test_targets_are_normalised_patches_of_hidden_tokens() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe, clips=2)
    target = recipe.targets(batch["clip"], batch["mask"])
    hidden = recipe.hidden(batch["mask"])
    assert target.shape == (2, 4 * 27, 128 * 3)
    for clip_index in range(2):
        tokens = hidden[clip_index].nonzero()[:, 0]
        for place in (0, 50, 107):
            time, rest = divmod(int(tokens[place]), 36)
            row, column = divmod(rest, 6)
            pixels = batch["clip"][clip_index, :, 2 * time : 2 * time + 2, 8 * row : 8 * row + 8, 8 * column :][..., :8]
            pixels = pixels.double().flatten(1) / 255  # [C, P]
            expected = (pixels - pixels.mean(1, keepdim=True)) / (pixels.std(1, keepdim=True) + 1e-6)
            assert torch.allclose(target[clip_index, place], expected.t().flatten().float(), atol=1e-3)


def test_zero_prediction_is_what_predicting_zero_scores() -> None:
    recipe = small_recipe()
    torch.nn.init.zeros_(recipe.head[1].weight)
    batch = small_batch(recipe)
    batch["clip"] = torch.randint(0, 256, batch["clip"].shape, dtype=torch.uint8)  # no patch is flat
    out = recipe(batch)
    assert out["loss"].item() == pytest.approx(127 / 128, abs=1e-4)
    assert out["zero_prediction"].item() == pytest.approx(127 / 128, abs=1e-4)
    assert out["variance_ratio"] == 0


def test_nothing_hidden_reaches_the_prediction() -> None:
    recipe = small_recipe().eval()
    batch = small_batch(recipe)
    clip = torch.randn(4, 3, 8, 48, 48)
    area = (
        batch["mask"].repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)[:, None].expand_as(clip)
    )
    before = recipe.predict(clip, batch["mask"])
    assert torch.equal(recipe.predict(torch.where(area, clip + 1, clip), batch["mask"]), before)
    assert not torch.allclose(recipe.predict(torch.where(area, clip, clip + 1), batch["mask"]), before)


def test_tubes_may_be_wider_than_patches() -> None:
    recipe = small_recipe(mask_pixels=16)
    batch = small_batch(recipe)
    assert batch["mask"].shape == (4, 4, 3, 3)
    assert recipe.targets(batch["clip"], batch["mask"]).shape[1] == 4 * 6 * 4  # times x tubes x patches of a tube
    assert recipe(batch)["loss"] > 0


def test_gradient_reaches_every_parameter() -> None:
    recipe = small_recipe()
    recipe(small_batch(recipe))["loss"].backward()
    for name, parameter in recipe.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_it_learns() -> None:
    torch.manual_seed(0)
    encoder = ViTEncoder(frames=4, size=32, patch=8, dim=64, depth=2, heads=2)
    recipe = VideoMAE(encoder, VideoMAEConfig(**(SMALL | {"mask_ratio": 0.6, "decoder_depth": 1})))
    batch = small_batch(recipe)
    optimizer = torch.optim.AdamW(recipe.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        out = recipe(batch)
        out["loss"].backward()
        optimizer.step()
    assert out["loss"] < 0.5 * out["zero_prediction"]
    assert out["variance_ratio"] > 0.3


def test_what_was_seen_is_rebuilt_as_it_was_and_the_hidden_part_at_its_own_brightness() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    rebuilt = recipe.rebuild(batch["clip"], batch["mask"])
    before, after = (patchify(video, 8).float() for video in (batch["clip"], rebuilt))
    hidden = recipe.hidden(batch["mask"])
    assert torch.equal(after[~hidden], before[~hidden])
    assert not torch.equal(after[hidden], before[hidden])
    torch.nn.init.zeros_(recipe.head[1].weight)  # nothing learnt: the mean colour of every patch
    flat = patchify(recipe.rebuild(batch["clip"], batch["mask"]), 8).float()[hidden]
    assert (flat - before[hidden].mean(dim=-1, keepdim=True)).abs().max() <= 0.5 + 1e-3


def test_pictures_are_large_and_show_what_is_hidden() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    panels = recipe.pictures(batch)
    assert list(panels) == ["input", "masked", "predicted"]
    for images in panels.values():
        assert images.dtype == np.uint8
        assert images.shape[0] == 4
        assert min(images.shape[1:3]) >= 256
    side = panels["input"].shape[1]
    differs = {
        name: (panels["input"] != panels[name]).any(axis=-1).reshape(4, 6, side // 6, 6, side // 6).any((2, 4))
        for name in ("masked", "predicted")
    }
    hidden = batch["mask"][:, 2].numpy()
    assert np.array_equal(differs["masked"], hidden)
    assert differs["predicted"][hidden].mean() > 0.8  # flat patches may be right
    assert not differs["predicted"][~hidden].any()


def test_impossible_options_are_refused() -> None:
    spec = InputSpec(8, 48, (0.5,) * 3, (0.5,) * 3, "video")
    with pytest.raises(UserError, match="mask_pixels=32 does not divide the encoder's size=48"):
        VideoMAE.views(VideoMAEConfig(mask_pixels=32), spec)
    with pytest.raises(UserError, match=r"mask_ratio=0.1 masks none of the 3 x 3 tubes"):
        VideoMAE.views(VideoMAEConfig(mask_ratio=0.1), spec)
    with pytest.raises(UserError, match="mask_pixels=12 is no multiple of the encoder's patch=8"):
        small_recipe(mask_pixels=12)
    with pytest.raises(UserError, match="decoder_heads=5 does not divide decoder_dim=64"):
        small_recipe(decoder_heads=5)
    with pytest.raises(UserError, match="videomae trains vit encoders, not MViTEncoder"):
        VideoMAE(create_model("mvit_tiny"), VideoMAEConfig())  # type: ignore[arg-type]


# Parity with VideoMAE -------------------------------------------------------------------------------------------------

RENAMED = (
    (r"encoder\.(.+)", r"encoder.\1"),
    (r"norm\.(weight|bias)", r"encoder.norm.\1"),
    (r"to_decoder\.weight", r"encoder_to_decoder.weight"),
    (r"decoder\.(\d+)\.(.+)", r"decoder.blocks.\1.\2"),
    (r"head\.0\.(weight|bias)", r"decoder.norm.\1"),
    (r"head\.1\.(weight|bias)", r"decoder.head.\1"),
    (r"mask_token", r"mask_token"),
)


def original_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our recipe's tensors under VideoMAE's names, sharing memory."""
    renamed = {}
    for name, value in tensors.items():
        (original,) = (found.expand(to) for rule, to in RENAMED if (found := re.fullmatch(rule, name)))
        renamed[original] = value.view(1, 1, -1) if name == "mask_token" else value
    return videomae_names(renamed)


def pixels_of(clip: Tensor, spec: InputSpec) -> Tensor:
    """Pixels of 0..1 that a normalised clip was made from."""
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (spec.mean, spec.std))
    return clip * std + mean


def recorded_gradients(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("grad."): value for name, value in tensors.items() if name.startswith("grad.")}


@pytest.mark.oracle
def test_prediction_loss_and_gradients_are_videomae_s(oracles: Path, differences: Differences) -> None:
    entry, tensors = oracle_entry(oracles, "videomae_tiny.safetensors")
    dim, depth, heads = entry["cfg"]["dec"]
    config = VideoMAEConfig(
        mask_pixels=entry["cfg"]["patch"], decoder_dim=dim, decoder_depth=depth, decoder_heads=heads
    )
    recipe = VideoMAE(vit_from_config(entry["cfg"]), config)
    state, clip = state_of(tensors), tensors["x"]
    load_layout(recipe.encoder, state, detect_layout(state, "vit_b", "oracle"), "oracle")
    for name, value in original_names({name: value.data for name, value in recipe.named_parameters()}).items():
        value.copy_(state[name])
    mask = tensors["mask"].view(-1, *recipe.encoder.grid)
    pixels = pixels_of(clip, recipe.encoder.input_spec)
    prediction, target = recipe.predict(clip, mask), recipe.targets(pixels, mask)
    differences.within("decoder positions", recipe.positions, tensors["pos_embed_dec"], absolute=1e-6)
    differences.within("prediction", prediction, tensors["pred"], absolute=2e-5)
    differences.within("target", target, tensors["target"], absolute=1e-4)
    raw = patchify(pixels, recipe.encoder.patch)[recipe.hidden(mask)].transpose(1, 2).flatten(1)
    differences.within("target, plain pixels", raw, tensors["target_unnormalised"], absolute=1e-6)
    loss = torch.nn.functional.mse_loss(prediction, target)
    differences.within("loss", loss, tensors["loss"], absolute=1e-5)
    assert loss.item() == pytest.approx(entry["loss"], abs=1e-5)
    loss.backward()
    gradients = original_names({name: value.grad for name, value in recipe.named_parameters()})  # type: ignore[misc]
    recorded = recorded_gradients(tensors)
    assert gradients.keys() == recorded.keys()
    pairs = {name: (gradients[name], value) for name, value in recorded.items()}
    differences.all_within("gradients", pairs, relative=2e-5)


@pytest.mark.oracle
def test_published_size_is_videomae_s(oracles: Path, differences: Differences) -> None:
    entry, tensors = oracle_entry(oracles, "videomae_base_pt.safetensors")
    frames = oracle_entry(oracles, "videomae_tiny.safetensors")[0]["cfg"]["frames"]  # fixed in the original
    clips, tokens = tensors["mask"].shape
    size = PATCH * math.isqrt(tokens // (frames // TUBELET))
    recipe = VideoMAE(create_model("vit_b", frames=frames, size=size), VideoMAEConfig())  # type: ignore[arg-type]
    parameters = original_names({name: value.data for name, value in recipe.named_parameters()})
    fill_parameters(parameters, entry["param_seed"])
    assert parameter_sha256(parameters) == entry["sha256"]
    assert sum(value.numel() for value in parameters.values()) == entry["params"]
    assert np.array_equal(
        tube_mask(
            recipe.encoder.grid, VideoMAEConfig().mask_ratio, np.random.RandomState(entry["np_seed_mask"])
        ).ravel(),  # type: ignore[arg-type]
        tensors["mask"][0],
    )
    clip, mask = (
        random_input(entry["x_seed"], [clips, 3, frames, size, size]),
        tensors["mask"].view(-1, *recipe.encoder.grid),
    )
    prediction, target = recipe.predict(clip, mask), recipe.targets(pixels_of(clip, recipe.encoder.input_spec), mask)
    first = tensors["pred_first16"].shape[1]
    differences.within("prediction", prediction[:, :first], tensors["pred_first16"], absolute=1e-4)
    differences.within("target", target[:, :first], tensors["target_first16"], absolute=1e-4)
    loss = torch.nn.functional.mse_loss(prediction, target)
    differences.within("loss", loss, entry["loss"], absolute=1e-5)
    loss.backward()
    gradients = original_names({name: value.grad for name, value in recipe.named_parameters()})  # type: ignore[misc]
    pairs = {name: (gradients[name], value) for name, value in recorded_gradients(tensors).items()}
    differences.all_within("gradients", pairs, relative=1e-4)


@pytest.mark.oracle
def test_weight_decay_spares_what_videomae_s_does(oracles: Path) -> None:
    groups = json.loads(oracle_file(oracles, "optim.json").read_text())["videomae_pt_B"]
    with torch.device("meta"):
        recipe = VideoMAE(create_model("vit_b"), VideoMAEConfig())  # type: ignore[arg-type]
    optim = OptimConfig(lr=1.0, epochs=1, batch_size=1, weight_decay=max(group["weight_decay"] for group in groups))
    parameters = dict(recipe.named_parameters())
    ours = {
        group["weight_decay"]: set(original_names({name: parameters[name] for name in group["names"]}))
        for group in parameter_groups(recipe, optim)
    }
    assert ours == {group["weight_decay"]: set(group["params"]) for group in groups}


@pytest.mark.oracle
def test_schedule_is_videomae_s(oracles: Path) -> None:
    example = json.loads(oracle_file(oracles, "optim.json").read_text())["videomae_cosine_example"]
    said = dict(re.findall(r"(base|final|epochs|niter|warmup_epochs) ([\d.e-]+)", example["args"]))
    base, final, epochs, niter, warmup = (float(said[k]) for k in ("base", "final", "epochs", "niter", "warmup_epochs"))
    optim = OptimConfig(
        lr=base / 8, min_lr=final / 8, start_lr=0, lr_batch=256, batch_size=2048, epochs=epochs, warmup_epochs=warmup
    )
    every = epochs / len(example["values"])  # epochs between two recorded values
    rates = [learning_rate(optim, index * every) for index in range(len(example["values"]))]
    rising = round(warmup / every)
    assert rates[rising:] == pytest.approx(example["values"][rising:], rel=1e-6)
    early = warmup * niter / (warmup * niter - 1)  # the original arrives at its peak one step before the warm-up's end
    assert [rate * early for rate in rates[:rising]] == pytest.approx(example["values"][:rising], rel=1e-6)
