"""MaskFeat: parity with the recorded original, nothing hidden leaks, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracle_helpers import (
    Differences,
    encoder_from_overrides,
    fill_parameters,
    oracle_entry,
    parameter_sha256,
    random_input,
    slowfast_parameters,
    state_of,
)
from torch import Tensor

from islr.errors import UserError
from islr.models import create_model
from islr.models.layouts import LAYOUTS, load_layout
from islr.models.layouts.slowfast import to_slowfast_name
from islr.models.mvit.encoder import MViTEncoder
from islr.models.mvit.sizes import MViTSizes
from pretrain.maskfeat import MaskFeat, MaskFeatConfig
from pretrain.masks.saliency import cell_motion
from pretrain.targets.hog import motion_targets

HEAD_NAMES = {
    "0.weight": "pred_head.transforms.0.0.weight",
    "0.bias": "pred_head.transforms.0.0.bias",
    "1.weight": "pred_head.projections.0.weight",
    "1.bias": "pred_head.projections.0.bias",
}


class MovingSquares:
    """A clip of two textured squares that move; quacks like a clip source."""

    length, fps = 24, 25.0

    def __init__(self, seed: int, size: int = 80) -> None:
        rng = np.random.default_rng(seed)
        self.size, self.start, self.speed = size, rng.uniform(10, size - 30, (2, 2)), rng.uniform(-1, 1, (2, 2))
        y, x = np.mgrid[:20, :20]
        self.textures = [
            np.where((np.cos(angle) * x + np.sin(angle) * y) % 6 < 3, 230, 40) for angle in rng.uniform(0, np.pi, 2)
        ]

    def read(self, indices: np.ndarray) -> np.ndarray:
        frames = np.full((len(indices), self.size, self.size, 3), 120, np.uint8)
        for frame, time in zip(frames, indices, strict=True):
            for texture, start, speed in zip(self.textures, self.start, self.speed, strict=True):
                top, left = np.clip(start + speed * time, 0, self.size - 20).astype(int)
                frame[top : top + 20, left : left + 20] = texture[..., None]
        return frames


def small_recipe(**options: object) -> MaskFeat:
    torch.manual_seed(0)
    config = MaskFeatConfig(mask_pixels=16, **options)
    return MaskFeat(create_model("mvit_tiny", **MaskFeat.encoder_arguments(config)), config)


def small_batch(recipe: MaskFeat, clips: int = 4) -> dict[str, Tensor]:
    view = MaskFeat.views(recipe.config, recipe.encoder.input_spec)
    samples = [view(MovingSquares(i), np.random.default_rng(i)) for i in range(clips)]  # type: ignore[arg-type]
    return {
        "clip": torch.stack([sample["clip"] for sample in samples]),
        "mask": torch.stack([torch.from_numpy(sample["mask"]) for sample in samples]),
    }


def test_views_give_pixels_and_a_mask_from_the_sample_s_generator() -> None:
    recipe = small_recipe()
    batch, again = small_batch(recipe), small_batch(recipe)
    assert batch["clip"].shape == (4, 3, 8, 64, 64)
    assert batch["clip"].dtype == torch.uint8
    assert batch["mask"].shape == (4, 4, 4, 4)
    assert batch["mask"].dtype == torch.bool
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["mask"][0], batch["mask"][1])


def test_zero_prediction_is_what_predicting_zero_scores() -> None:
    recipe = small_recipe()
    torch.nn.init.zeros_(recipe.heads[0][1].weight)
    out = recipe(small_batch(recipe))
    assert 0.01 < out["zero_prediction"] < 1 / 9
    assert out["loss"].item() == pytest.approx(out["zero_prediction"].item())


def test_nothing_hidden_reaches_the_prediction() -> None:
    recipe = small_recipe().eval()
    batch = small_batch(recipe)
    mask = torch.zeros_like(batch["mask"])
    mask[:, 1:3, 1:3, 1:3] = True
    clip = torch.randn(4, 3, 8, 64, 64)
    before = recipe.predict(clip, mask)[0]
    inside = clip.clone()
    inside[:, :, 3:5, 20:44, 20:44] += 1  # further from every visible patch than the patch kernel reaches
    assert torch.equal(recipe.predict(inside, mask)[0], before)
    outside = clip.clone()
    outside[:, :, :, :8] += 1
    assert not torch.allclose(recipe.predict(outside, mask)[0], before)


def test_loss_looks_at_hidden_tokens_alone() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    clip, mask = batch["clip"], batch["mask"]
    targets = recipe.targets(clip, mask)[0]
    assert len(targets) == mask.sum() == len(recipe.predict(clip.float(), mask)[0])
    changed = clip.clone()
    visible = ~mask.repeat_interleave(2, 1).repeat_interleave(16, 2).repeat_interleave(16, 3)
    inner = torch.zeros(16, 16, dtype=torch.bool)
    inner[1:15, 1:15] = True  # gradients at a token's edge see one pixel of its neighbour
    changed[(visible & inner.repeat(4, 4))[:, None].expand_as(clip)] = 0
    assert torch.equal(recipe.targets(changed, mask)[0], targets)


def test_it_learns() -> None:
    torch.manual_seed(0)
    encoder = MViTEncoder(
        MViTSizes(
            depth=2,
            embed_dim=32,
            dim_mul={1: 2},
            head_mul={1: 2},
            q_stride={0: 2, 1: 2},
            kv_stride=4,
        ),
        frames=4,
        size=64,
        init="fan_in",
    )
    recipe = MaskFeat(encoder, MaskFeatConfig(mask_pixels=16))
    batch = small_batch(recipe)
    optimizer = torch.optim.AdamW(recipe.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        out = recipe(batch)
        out["loss"].backward()
        optimizer.step()
    assert out["loss"] < 0.5 * out["zero_prediction"]


def test_gradient_reaches_every_parameter() -> None:
    recipe = small_recipe(depths=(2, -1))
    recipe(small_batch(recipe))["loss"].backward()
    for name, parameter in recipe.named_parameters():
        if not name.endswith("pool_k.norm_act.0.bias"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_losses_of_several_depths_add_up() -> None:
    recipe = small_recipe(depths=(2, -1))
    batch = small_batch(recipe)
    clip = batch["clip"].float()
    predictions, targets = recipe.predict(clip, batch["mask"]), recipe.targets(batch["clip"], batch["mask"])
    parts = [(p - t).square().mean() for p, t in zip(predictions, targets, strict=True)]
    assert recipe.loss(predictions, targets).item() == pytest.approx(sum(parts).item())


def test_earlier_depths_with_smaller_tokens_predict_one_cell_each() -> None:
    recipe = small_recipe(depths=(0,))
    batch = small_batch(recipe)
    assert recipe.targets(batch["clip"], batch["mask"])[0].shape == (4 * batch["mask"].sum(), 27)
    assert recipe(batch)["loss"] > 0


def test_motion_masks_hide_what_moves() -> None:
    recipe = small_recipe(mask="motion_cube")
    batch, again = small_batch(recipe), small_batch(recipe)
    assert torch.equal(batch["mask"], again["mask"])
    assert (batch["mask"].sum(dim=(1, 2, 3)) == round(64 * 0.4)).all()
    motion = torch.from_numpy(np.stack([cell_motion(clip.numpy(), (4, 4, 4)) for clip in batch["clip"]]))
    assert motion[batch["mask"]].mean() > 1.5 * motion[~batch["mask"]].mean()


def test_motion_bins_add_the_histogram_of_change_behind_hog() -> None:
    plain, recipe = small_recipe(), small_recipe(motion_bins=4)
    batch = small_batch(recipe)
    clip, mask = batch["clip"], batch["mask"]
    target = recipe.targets(clip, mask)[0]
    assert target.shape == (mask.sum(), 108 + 3 * 4 * 4) == recipe.predict(clip.float(), mask)[0].shape
    assert torch.equal(target[:, :108], plain.targets(clip, mask)[0])
    still = clip[:, :, ::2].repeat_interleave(2, dim=2)
    assert (recipe.targets(still, mask)[0][:, 108:] == 0).all()
    assert target[:, 108:].any()
    assert recipe(batch)["loss"].isfinite()
    assert recipe.pictures(batch)["predicted HOG"].shape == plain.pictures(batch)["predicted HOG"].shape


def test_motion_bins_tell_the_direction_of_an_edge_that_moves() -> None:
    clip = torch.zeros(1, 3, 2, 16, 16, dtype=torch.uint8)
    clip[:, :, 0, :, 8:] = clip[:, :, 1, :, 7:] = 255  # an upright edge goes left
    everywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    across = motion_targets(clip, everywhere, 4).view(3, 4, 2, 2)
    down = motion_targets(clip.transpose(3, 4), everywhere, 4).view(3, 4, 2, 2)
    assert across.sum() > 0
    assert not torch.equal(across, down)
    assert torch.equal(across.argmax(dim=1).unique(), torch.tensor([2]))
    assert torch.equal(down.argmax(dim=1).unique(), torch.tensor([0]))


def test_pictures_are_large_and_show_what_is_hidden() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    panels = recipe.pictures(batch)
    assert list(panels) == ["input", "masked", "target HOG", "predicted HOG"]
    for images in panels.values():
        assert images.dtype == np.uint8
        assert images.shape[0] == 4
        assert min(images.shape[1:3]) >= 128
    side = panels["input"].shape[1]
    differs = (panels["input"] != panels["masked"]).any(axis=-1).reshape(4, 4, side // 4, 4, side // 4).mean((2, 4))
    fullest = batch["mask"].sum(dim=(2, 3)).argmax(dim=1)
    assert np.array_equal(differs > 0.5, batch["mask"][torch.arange(4), fullest].numpy())


def test_impossible_options_are_refused() -> None:
    spec = create_model("mvit_tiny").input_spec
    for pixels in (24, 64):
        with pytest.raises(UserError, match=f"mask_pixels={pixels} does not divide"):
            MaskFeat.views(MaskFeatConfig(mask_pixels=pixels), spec)
    with pytest.raises(ValueError, match="motion_bins needs hog: pixels"):
        MaskFeatConfig(motion_bins=9, hog="normalised")
    with pytest.raises(UserError, match="depths names block 9"):
        small_recipe(depths=(9,))
    with pytest.raises(UserError, match="maskfeat trains mvit encoders, not PoseTransformer"):
        MaskFeat(create_model("pose_transformer_tiny"), MaskFeatConfig())  # type: ignore[arg-type]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "widen_in"),
    [("maskfeat_tiny.safetensors", "mlp"), ("maskfeat_tiny_dimmulinatt.safetensors", "attention")],
)
def test_prediction_loss_and_gradients_are_slowfast_s(
    oracles: Path, differences: Differences, name: str, widen_in: str
) -> None:
    entry, tensors = oracle_entry(oracles, name)
    encoder = encoder_from_overrides(entry["overrides"], widen_in=widen_in)
    beside = load_layout(encoder, state_of(tensors), LAYOUTS["slowfast"], name).left
    recipe = MaskFeat(encoder, MaskFeatConfig())
    recipe.mask_token.data.copy_(beside["mask_token"].flatten())
    recipe.heads[0].load_state_dict({ours: beside[theirs] for ours, theirs in HEAD_NAMES.items()})
    mask = tensors["mask"].bool()
    predictions, targets = recipe.predict(tensors["x"], mask), recipe.targets(tensors["x"], mask)
    loss = recipe.loss(predictions, targets)
    differences.within("prediction", predictions[0], tensors["pred"], absolute=2e-5)
    differences.within("target", targets[0], tensors["target"], absolute=1e-6)
    differences.within("loss", loss, tensors["loss"], absolute=1e-6)
    assert loss.item() == pytest.approx(entry["loss"], abs=1e-6)
    loss.backward()
    names = {f"heads.0.{ours}": theirs for ours, theirs in HEAD_NAMES.items()} | {"mask_token": "mask_token"}
    gradients = {}
    for ours, parameter in recipe.named_parameters():
        theirs = names.get(ours) or to_slowfast_name(ours.removeprefix("encoder."))
        if not theirs.endswith("norm_k.bias"):  # its true gradient is zero, what is recorded is rounding
            gradients[ours] = (parameter.grad, tensors[f"grad.{theirs}"])
    differences.all_within("gradients", gradients, relative=2e-5)


@pytest.mark.oracle
def test_published_size_is_slowfast_s(oracles: Path, differences: Differences) -> None:
    entry, tensors = oracle_entry(oracles, "mvitv2_s_maskfeat_pt.safetensors")
    _, _, frames, size, _ = entry["x_shape"]
    recipe = MaskFeat(create_model("mvit_s", frames=frames, size=size, last_stride=1), MaskFeatConfig())
    beside = {theirs: recipe.heads[0].get_parameter(ours) for ours, theirs in HEAD_NAMES.items()}
    parameters = slowfast_parameters(recipe.encoder, beside)
    parameters["mask_token"] = recipe.mask_token.data.view(1, 1, -1)
    fill_parameters(parameters, entry["param_seed"])
    assert parameter_sha256(parameters) == entry["sha256"]
    assert sum(parameter.numel() for parameter in recipe.parameters()) == entry["params"]
    clip, mask = random_input(entry["x_seed"], entry["x_shape"]), tensors["mask"].bool()
    with torch.no_grad():
        prediction, target = recipe.eval().predict(clip, mask)[0], recipe.targets(clip, mask)[0]
        loss = recipe.loss([prediction], [target])
    assert len(prediction) == entry["n_masked"]
    differences.within("prediction", prediction[:64], tensors["pred_first64"], absolute=1e-4)
    differences.within("target", target[:64], tensors["target_first64"], absolute=1e-6)
    differences.within("sum of predictions", prediction.double().sum(dim=0), tensors["pred_sum"], absolute=1e-2)
    differences.within("loss", loss, entry["loss"], absolute=1e-5)
