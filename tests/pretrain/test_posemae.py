"""PoseMAE and the pose transformer: parts, nothing hidden leaks, nothing unseen counts, and it learns."""

import numpy as np
import pytest
import torch
from torch import Tensor

from islr.data.poses.pose import HAND_MIDDLE_MCP, HAND_ROOT, LEFT_HAND, RIGHT_HAND, Pose
from islr.errors import UserError
from islr.models import create_model
from islr.models.pose_transformer import BODY_POINTS, PART_POINTS, part_points
from pretrain.masks.draw import part_tube_mask
from pretrain.posemae import PoseMAE, PoseMAEConfig, line_predictions, part_motion
from pretrain.targets.straight_lines import straight_lines


def waving(frames: int = 32, seed: int = 0) -> np.ndarray:
    """A normalised pose whose right hand moves in a circle, `[T, 75, 3]`, all points seen."""
    rng = np.random.default_rng(seed)
    pose = np.ones((frames, 75, 3), np.float32)
    pose[..., :2] = rng.normal(0, 0.5, (75, 2))
    phase = np.linspace(0, rng.uniform(4, 8), frames) + rng.uniform(0, 6)
    pose[:, RIGHT_HAND, :2] += 0.4 * np.stack([np.cos(phase), np.sin(phase)], axis=-1)[:, None]
    return pose


class PoseSource:
    """Quacks like a clip source that has a pose."""

    def __init__(self, seed: int) -> None:
        self._pose = waving(40, seed)

    def pose(self) -> Pose:
        return Pose(self._pose / 5 + 0.5, np.ones((40, 75), np.float32), 25.0, 256, 256)


def small_recipe(frames: int = 16, **options: object) -> PoseMAE:
    torch.manual_seed(0)
    return PoseMAE(create_model("pose_transformer_tiny", frames=frames), PoseMAEConfig(decoder_dim=32, **options))


def small_batch(recipe: PoseMAE, clips: int = 4) -> dict[str, Tensor]:
    view = PoseMAE.views(recipe.config, recipe.encoder.input_spec)
    samples = [view(PoseSource(i), np.random.default_rng(i)) for i in range(clips)]  # type: ignore[arg-type]
    return {
        "clip": torch.stack([sample["clip"] for sample in samples]),
        "mask": torch.stack([torch.from_numpy(sample["mask"]) for sample in samples]),
    }


def pose_points(part: int) -> list[int]:
    return [list(BODY_POINTS), *(list(range(75)[hand]) for hand in (LEFT_HAND, RIGHT_HAND))][part]


def test_hand_shape_does_not_depend_on_place_or_size() -> None:
    pose = torch.from_numpy(waving())[None]
    moved = pose.clone()
    moved[:, :, RIGHT_HAND, :2] = pose[:, :, RIGHT_HAND, :2] * 1.7 + torch.tensor([0.3, -0.2])
    right, right_moved = part_points(pose)[2], part_points(moved)[2]
    assert torch.allclose(right.xy[:, :, :-1], right_moved.xy[:, :, :-1], atol=1e-4)
    assert torch.allclose(right_moved.xy[:, :, -1], moved[:, :, RIGHT_HAND.start, :2])
    palm = right.xy[:, :, HAND_MIDDLE_MCP] - right.xy[:, :, HAND_ROOT]
    assert torch.allclose(palm.norm(dim=-1), torch.ones(1, 32), atol=1e-4)


def test_a_point_that_is_not_seen_is_zero_whatever_its_coordinates() -> None:
    pose = torch.from_numpy(waving())[None]
    pose[:, 5:9, LEFT_HAND, 2] = 0
    pose[:, 5:9, LEFT_HAND, :2] = 1e6
    pose[:, :, BODY_POINTS[4], 2] = 0
    encoder = create_model("pose_transformer_tiny", frames=32).eval()
    zeroed = pose * (pose[..., 2:] > 0)
    assert torch.equal(encoder(pose), encoder(zeroed))
    body, left, right = part_points(pose)
    assert (left.xy[:, 5:9] == 0).all()
    assert (body.xy[:, :, 4] == 0).all()
    assert encoder.seen(pose)[0, 4:10, 1].tolist() == [True, False, False, False, False, True]
    assert [part.xy.shape[2] for part in (body, left, right)] == list(PART_POINTS)


def test_only_seen_parts_are_pooled() -> None:
    encoder = create_model("pose_transformer_tiny", frames=8).eval()
    pose = torch.from_numpy(waving(8))[None]
    pose[:, :, LEFT_HAND, 2] = 0
    tokens = encoder.forward_layers(pose)[-1].unflatten(1, (8, 3))
    assert torch.allclose(encoder(pose), tokens[:, :, [0, 2]].mean(dim=(1, 2)), atol=1e-6)
    nothing = pose * torch.tensor([1.0, 1.0, 0.0])
    assert torch.isfinite(encoder(nothing)).all()
    both = create_model("pose_transformer_tiny", frames=8, pool="mean_max").eval()
    both.load_state_dict(encoder.state_dict())
    assert both.dim == 2 * encoder.dim
    highest = tokens[:, :, [0, 2]].amax(dim=(1, 2))
    assert torch.allclose(both(pose), torch.cat([encoder(pose), highest], dim=1), atol=1e-6)
    assert torch.isfinite(both(nothing)).all()
    with pytest.raises(UserError, match="pool='max' is unknown"):
        create_model("pose_transformer_tiny", pool="max")


def test_visible_tokens_are_encoded_as_if_the_others_did_not_exist() -> None:
    encoder = create_model("pose_transformer_tiny", frames=8).eval()
    pose = torch.from_numpy(waving(8))[None]
    visible = torch.tensor([[0, 5, 7, 20]])
    tokens = encoder.forward_tokens(pose, visible)[-1]
    assert tokens.shape == (1, 4, encoder.dim)
    everything = torch.arange(24)[None]
    assert torch.allclose(encoder.forward_tokens(pose, everything)[-1], encoder.forward_layers(pose)[-1], atol=1e-6)


def test_views_give_a_pose_and_a_mask_of_fixed_count() -> None:
    recipe = small_recipe()
    batch, again = small_batch(recipe), small_batch(recipe)
    assert batch["clip"].shape == (4, 16, 75, 3)
    assert batch["clip"].dtype == torch.float32
    assert (batch["mask"].sum(dim=(1, 2)) == round(0.75 * 48)).all()
    assert all(torch.equal(batch[key], again[key]) for key in batch)


def test_motion_of_parts() -> None:
    pose = waving()
    motion = part_motion(pose, 2)
    assert motion.shape == (32, 3)
    assert (motion[:, :2] == 0).all()
    assert (motion[:, 2] > 0.01).all()
    pose[:, RIGHT_HAND, 2] = 0
    assert (part_motion(pose, 2) == 0).all()


@pytest.mark.parametrize("part", [0, 1, 2])
def test_nothing_hidden_reaches_the_prediction(part: int) -> None:
    recipe = small_recipe().eval()
    batch = small_batch(recipe)
    mask = torch.zeros_like(batch["mask"])
    mask[:, :12] = True
    before = recipe.predict(batch["clip"], mask)
    hidden = batch["clip"].clone()
    hidden[:, :12, pose_points(part), :2] += 0.7  # the palm's length, which is a property of the clip, stays
    for one, other in zip(recipe.predict(hidden, mask), before, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    visible = batch["clip"].clone()
    visible[:, 12:, pose_points(part), :2] += 0.7
    assert not torch.allclose(recipe.predict(visible, mask)[part], before[part], atol=1e-3)


def test_points_that_are_not_seen_are_never_targets() -> None:
    recipe = small_recipe().eval()
    batch = small_batch(recipe)
    batch["mask"][:] = False
    batch["mask"][:, 2:6, 1] = True
    clip = batch["clip"].clone()
    clip[:, :, LEFT_HAND, 2] = 0
    assert recipe({"clip": clip, "mask": batch["mask"]})["loss"] == 0
    assert recipe(batch)["loss"] > 0


def test_confidence_weights_the_loss() -> None:
    recipe = small_recipe(motion_weight=0.0).eval()
    batch = small_batch(recipe, clips=1)
    batch["mask"][:] = False
    batch["mask"][:, 4, 0] = True
    predicted = recipe.predict(batch["clip"], batch["mask"])[0][0, 4, :, 0]
    error = torch.nn.functional.smooth_l1_loss(
        predicted, batch["clip"][0, 4, BODY_POINTS, :2], reduction="none", beta=recipe.config.beta
    ).mean(dim=-1)
    doubted = batch["clip"].clone()
    doubted[0, 4, BODY_POINTS[:5], 2] = 0.25
    weight = doubted[0, 4, BODY_POINTS, 2]
    loss = recipe({"clip": doubted, "mask": batch["mask"]})["points"]
    assert loss.item() == pytest.approx(((error * weight).sum() / weight.sum()).item(), rel=1e-4)


def test_true_points_and_motion_cost_nothing_and_others_do() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    stride = recipe.config.motion_stride
    truth = []
    for part in part_points(batch["clip"]):
        motion = torch.zeros_like(part.xy)
        for time in range(16 - stride):
            motion[:, time] = part.xy[:, time + stride] - part.xy[:, time]
        truth.append(torch.stack([part.xy, motion], dim=3))
    recipe.predict = lambda clip, mask: truth  # type: ignore[method-assign]
    assert recipe(batch)["loss"] < 1e-9
    recipe.predict = lambda clip, mask: [part * torch.tensor([1.0, -1.0])[:, None] for part in truth]  # type: ignore
    out = recipe(batch)
    assert out["points"] < 1e-9
    assert out["loss"] == out["motion"] > 0.01


def test_rebuilding_from_true_points_gives_the_pose() -> None:
    recipe = small_recipe()
    clip = small_batch(recipe)["clip"]
    truth = [torch.stack([part.xy, part.xy], dim=3) for part in part_points(clip)]
    recipe.predict = lambda clip, mask: truth  # type: ignore[method-assign]
    rebuilt = recipe.rebuild(clip, torch.ones(4, 16, 3, dtype=torch.bool))
    assert torch.allclose(rebuilt, clip, atol=1e-4)


def test_it_learns() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe, clips=8)
    optimizer = torch.optim.AdamW(recipe.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = recipe(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_gradient_reaches_every_parameter() -> None:
    recipe = small_recipe()
    recipe(small_batch(recipe))["loss"].backward()
    for name, parameter in recipe.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_pictures_show_a_frame_with_one_visible_part() -> None:
    recipe = small_recipe()
    panels = recipe.pictures(small_batch(recipe))
    assert list(panels) == ["input", "visible", "predicted"]
    for images in panels.values():
        assert images.dtype == np.uint8
        assert images.shape[0] == 4
        assert min(images.shape[1:3]) >= 128
    drawn = {name: (images != images[:, :1, :1]).any(axis=-1).sum(axis=(1, 2)) for name, images in panels.items()}
    assert (drawn["visible"] > 0).all()
    assert (drawn["visible"] < drawn["input"]).all()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match="motion_stride=16 needs clips longer than frames=16"):
        small_recipe(motion_stride=16)
    with pytest.raises(UserError, match="tube_frames=9 needs clips of twice as many frames, not 16"):
        small_batch(small_recipe(mask="tube", tube_frames=9))
    with pytest.raises(UserError, match=r"mask_ratio=0\.1 hides 5 tokens, less than a tube of 8"):
        small_batch(small_recipe(mask="tube", mask_ratio=0.1))
    with pytest.raises(ValueError, match="guidance acts only with mask: motion"):
        small_recipe(mask="tube", guidance=2.0)
    with pytest.raises(UserError, match="decoder_heads=5 does not divide decoder_dim=32"):
        small_recipe(decoder_heads=5)
    with pytest.raises(UserError, match=r"posemae trains .*pose_conv_transformer encoders, not MViTEncoder"):
        PoseMAE(create_model("mvit_tiny"), PoseMAEConfig())  # type: ignore[arg-type]


def slow_line(values: list[float | None], batch_mean: float) -> list[float]:
    """Points of one coordinate on straight lines; None = hidden."""
    shown = [time for time, value in enumerate(values) if value is not None]
    line = []
    for time in range(len(values)):
        before = max((moment for moment in shown if moment <= time), default=None)
        after = min((moment for moment in shown if moment >= time), default=None)
        ends = [values[moment] for moment in (before, after) if moment is not None]
        if before is None or after is None or before == after:
            line.append(ends[0] if ends else batch_mean)
        else:
            line.append(ends[0] + (ends[1] - ends[0]) * (time - before) / (after - before))
    return line


def test_lines_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    xy, known = torch.from_numpy(rng.normal(size=(5, 12, 3, 2))), torch.from_numpy(rng.random((5, 12, 3)) < 0.3)
    known[0, :, 1] = False  # never shown
    known[1, :, 2] = True
    lines = straight_lines(xy, known)
    for clip, point, axis in np.ndindex(5, 3, 2):
        shown = [
            value if seen else None
            for value, seen in zip(xy[clip, :, point, axis].tolist(), known[clip, :, point].tolist(), strict=True)
        ]
        mean = xy[:, :, point, axis][known[:, :, point]].mean().item()
        assert lines[clip, :, point, axis].tolist() == pytest.approx(slow_line(shown, mean)), (clip, point, axis)


def test_trivial_scores_are_what_lines_and_rest_score(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(pose={"drop_hand": 0.0})
    batch = small_batch(recipe)
    lines = line_predictions(part_points(batch["clip"]), batch["mask"], recipe.config.motion_stride)
    monkeypatch.setattr(recipe, "predict", lambda clip, mask: lines)
    out = recipe(batch)
    assert out["points"].item() == out["line_points"].item() > 1e-3
    assert out["motion"].item() == out["line_motion"].item() > 1e-3
    rest = [part * torch.tensor([1.0, 0.0])[:, None] for part in lines]
    monkeypatch.setattr(recipe, "predict", lambda clip, mask: rest)
    assert recipe(batch)["motion"].item() == out["no_motion"].item() > out["line_motion"].item()


def test_lines_do_not_know_what_is_hidden() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe)
    batch["mask"][:] = False
    batch["mask"][:, 4:9, 2] = True
    before = line_predictions(part_points(batch["clip"]), batch["mask"], 2)
    batch["clip"][:, 4:9, pose_points(2), :2] += 0.7
    for one, other in zip(line_predictions(part_points(batch["clip"]), batch["mask"], 2), before, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("moments", "ratio", "shortest"), [(16, 0.75, 8), (32, 0.5, 8), (32, 0.36, 8), (20, 0.9, 6)])
def test_tubes_hide_one_part_for_long_and_an_exact_count(moments: int, ratio: float, shortest: int) -> None:
    masks = [part_tube_mask(moments, 3, ratio, shortest, np.random.default_rng(seed)) for seed in range(40)]
    for mask in masks:
        assert mask.sum() == round(moments * 3 * ratio)
        edges = np.diff(np.pad(mask.astype(int), ((1, 1), (0, 0))), axis=0)  # [T + 1, P]
        for part in range(3):
            runs = np.flatnonzero(edges[:, part] == -1) - np.flatnonzero(edges[:, part] == 1)
            assert (runs >= shortest).all()
    often = np.mean(masks, axis=(0, 1))
    assert np.ptp(often) < 0.25  # no part is hidden much more often than another


def test_neighbouring_moments_are_alike_before_any_training() -> None:
    recipe = small_recipe()
    for positions in (recipe.positions, recipe.encoder.positions):
        likeness = torch.nn.functional.cosine_similarity(positions[:-1], positions[1:])
        assert (likeness > torch.nn.functional.cosine_similarity(positions[:-8], positions[8:]).mean()).all()
    assert not {"positions", "encoder.positions"} & set(recipe.state_dict())
