"""SL-DPC: its windows, its loss against a slow loop, what predictions may see, and learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.recipe_runs import smallest_config
from support.zero_gradient import zero_gradient
from torch import Tensor

from islr.data.manifest import Clip, Manifest
from islr.data.poses.pose import RIGHT_HAND, Pose, write_pose
from islr.errors import UserError
from islr.models import create_model
from pretrain.dpc import DPC, DPCConfig, window_positions
from pretrain.run import ENCODER, run_pretrain


class MovingHand:
    """Quacks like a clip source: a still body, and a right hand that moves along a line of its own."""

    def __init__(self, seed: int, frames: int = 40) -> None:
        rng = np.random.default_rng(seed)
        points = np.tile(0.5 + rng.normal(0, 0.1, (75, 3)), (frames, 1, 1))
        points[:, 11, :2], points[:, 12, :2] = (0.6, 0.5), (0.4, 0.5)
        way = np.linspace(0, 1, frames)[:, None] * rng.normal(0, 0.3, 2)
        points[:, RIGHT_HAND, :2] += way[:, None]
        self._pose = Pose(points.astype(np.float32), np.ones((frames, 75), np.float32), 25.0, 256, 256)

    def pose(self) -> Pose:
        return self._pose


def small_recipe(encoder: str = "stgcn_tiny", **options: Any) -> DPC:
    torch.manual_seed(0)
    config = DPCConfig(**({"windows": 5, "window_frames": 4, "predicted": 3} | options))
    return DPC(create_model(encoder, **DPC.encoder_arguments(config)), config)


def small_batch(recipe: DPC, clips: int = 4) -> dict[str, Tensor]:
    view = DPC.views(recipe.config, recipe.encoder.input_spec)
    return {"clip": torch.stack([view(MovingHand(i), np.random.default_rng(i))["clip"] for i in range(clips)])}  # type: ignore[arg-type]


def slow_loss(predicted: Tensor, future: Tensor, temperature: float) -> float:
    """InfoNCE, one prediction at a time."""
    losses = []
    for clip in range(len(predicted)):
        for step in range(predicted.shape[1]):
            row = predicted[clip, step]
            candidates = {
                (c, s): torch.exp(row @ future[c, s] / temperature)
                for c in range(len(future))
                for s in range(future.shape[1])
            }
            losses.append(-torch.log(candidates[clip, step] / sum(candidates.values())))
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("clips", [2, 5])
def test_loss_is_the_slow_loop_s(temperature: float, clips: int) -> None:
    recipe = small_recipe(temperature=temperature).eval()  # the same features for every call
    batch = small_batch(recipe, clips)
    with torch.no_grad():
        out = recipe(batch)
        features = recipe.features(batch["clip"])
        predicted = recipe.predict(features[:, :-3])
        assert out["loss"].item() == pytest.approx(slow_loss(predicted, features[:, -3:], temperature), rel=1e-5)
    assert out["chance"].item() == pytest.approx(1 / (3 * clips))
    assert out["feature_std"].item() == pytest.approx(features.flatten(0, 1).std(dim=0).mean().item())


def test_batches_of_another_size_follow_each_other() -> None:
    recipe = small_recipe()
    for clips in (4, 2, 5):
        assert recipe(small_batch(recipe, clips))["chance"].item() == pytest.approx(1 / (3 * clips))


def test_a_row_of_scores_is_one_step_s_prediction() -> None:
    recipe = small_recipe(predicted=2)
    predicted = torch.arange(16.0).view(2, 2, 4)
    rows = recipe.scores(predicted, torch.eye(4).view(2, 2, 4))  # features of unit vectors read the rows out
    assert rows.tolist() == predicted.reshape(4, 4).tolist()
    scrambled = predicted.permute(0, 2, 1).reshape(4, 4)  # the published layout
    assert rows[0].tolist() != scrambled[0].tolist() == [0, 4, 1, 5]


def test_perfect_predictions_are_all_right_and_shuffled_ones_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(temperature=0.01)
    features = torch.nn.functional.normalize(torch.randn(3, 5, recipe.encoder.dim), dim=-1)
    monkeypatch.setattr(recipe, "features", lambda clip: features)
    monkeypatch.setattr(recipe, "predict", lambda context: features[:, -3:])
    batch = {"clip": torch.zeros(3, 5, 4, 75, 3)}
    assert recipe(batch)["accuracy"] == 1
    monkeypatch.setattr(recipe, "predict", lambda context: features[:, -3:].roll(1, dims=1))
    assert recipe(batch)["accuracy"] == 0


def test_predictions_do_not_see_what_they_predict() -> None:
    recipe = small_recipe().eval()
    clip = small_batch(recipe)["clip"]
    changed = clip.clone()
    changed[:, -3:, :, :, :2] += torch.randn(4, 3, 4, 75, 2)
    before, after = (recipe.predict(recipe.features(one)[:, :-3]) for one in (clip, changed))
    assert torch.equal(before, after)
    changed = clip.clone()
    changed[:, 0, :, :, :2] += 1
    assert not torch.allclose(recipe.predict(recipe.features(changed)[:, :-3]), before, atol=1e-3)


def test_a_later_prediction_follows_from_the_one_before() -> None:
    recipe = small_recipe()
    context = torch.randn(2, 4, recipe.encoder.dim)
    predicted = recipe.predict(context)
    assert predicted.shape == (2, 3, recipe.encoder.dim)
    longer = torch.cat([context.relu(), predicted[:, :2].relu()], dim=1)  # as if the predictions had come true
    assert torch.allclose(recipe.predictor(recipe.gather(longer)[1][0]), predicted[:, 2], atol=1e-5)


@pytest.mark.parametrize(
    ("length", "step", "crop", "span"),
    [(100, 1, (1.0, 1.0), 19), (100, 3, (1.0, 1.0), 57), (12, 1, (1.0, 1.0), 11), (100, 3, (0.5, 0.5), 49.5)],
)
def test_windows_are_at_the_wanted_rate_or_over_the_whole_clip(
    length: int, step: int, crop: tuple[float, float], span: float
) -> None:
    starts = set()
    for seed in range(30):
        positions = window_positions(length, 20, step, crop, np.random.default_rng(seed))
        assert len(positions) == 20
        assert 0 <= positions[0] == round(positions[0])
        assert positions[-1] - positions[0] == pytest.approx(span)
        assert positions[-1] <= length - 1
        assert np.ptp(np.diff(positions)) < 1e-9
        starts.add(positions[0])
    assert (len(starts) > 5) == (span < length - 1)


def test_views_are_consecutive_windows() -> None:
    plain = {"crop": (1.0, 1.0), "rotation": 0, "shear": 0, "scale": 0, "shift": 0, "jitter": 0, "drop_hand": 0}
    recipe = small_recipe(pose=plain)
    clip = small_batch(recipe, 1)["clip"]
    assert clip.shape == (1, 5, 4, 75, 3)
    assert clip.dtype == torch.float32
    steps = clip.flatten(1, 2)[0, :, RIGHT_HAND.start, :2].diff(dim=0)
    assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-4)  # a line at one speed, over all windows
    assert steps.norm(dim=1).min() > 1e-3


@pytest.mark.parametrize(
    "encoder", ["stgcn_tiny", "slgcn_tiny", "pose_transformer_tiny", "pose_conv_transformer_tiny", "spoter_tiny"]
)
def test_every_pose_encoder_is_trained(encoder: str) -> None:
    recipe = small_recipe(encoder)
    out = recipe(small_batch(recipe))
    out["loss"].backward()
    assert 0 < out["loss"] < 100
    for name, value in recipe.named_parameters():
        assert value.grad is not None, name
        if not name.endswith(zero_gradient(recipe.encoder)):
            assert value.grad.abs().max() > 0, name


def test_it_learns() -> None:
    recipe = small_recipe()
    batch = small_batch(recipe, 6)
    optimizer = torch.optim.AdamW(recipe.parameters(), lr=1e-3)
    for _ in range(25):
        optimizer.zero_grad()
        out = recipe(batch)
        out["loss"].backward()
        optimizer.step()
    assert out["accuracy"] > 10 * out["chance"]


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match="window_frames=4 and the encoder takes 16 frames"):
        DPC(create_model("stgcn_tiny", frames=16), DPCConfig(window_frames=4))
    with pytest.raises(ValueError, match="predicted 7 leaves none of 7 windows"):
        DPCConfig(predicted=7)
    with pytest.raises(ValueError, match="bends the time of a whole sign"):
        DPCConfig.model_validate({"pose": {"warp": 0.1}})


def test_clips_need_no_videos(tmp_path: Path) -> None:
    clips = []
    for number in range(12):
        write_pose(tmp_path / f"{number}.npz", MovingHand(number).pose())
        clips.append(Clip(str(number), f"{number}.mp4", split="train", pose=f"{number}.npz"))
    Manifest("poses", tuple(clips), tmp_path).save(tmp_path / "manifest.csv")
    run_pretrain(
        smallest_config("dpc", tmp_path / "manifest.csv", tmp_path / "run", optim={"epochs": 1, "warmup_epochs": 0})
    )
    assert any(name.endswith("running_mean") for name in load_file(tmp_path / "run" / ENCODER))


def slow_repeated(clip: Tensor, predicted: int) -> tuple[float, float]:
    """Accuracies of the last window moved by the mean change of the other clips, one window at a time."""
    windows = clip[:, -predicted - 1 :].flatten(2)
    found, found_in_clip = [], []
    for mine in range(len(clip)):
        others = [other for other in range(len(clip)) if other != mine]
        for step in range(predicted):
            change = torch.stack([windows[other, step + 1] - windows[other, 0] for other in others]).mean(dim=0)
            guess = windows[mine, 0] + change
            distances = {
                (c, s): float((guess - windows[c, s + 1]).norm()) for c in range(len(clip)) for s in range(predicted)
            }
            found.append(min(distances, key=distances.__getitem__) == (mine, step))
            own = {s: distances[mine, s] for s in range(predicted)}
            found_in_clip.append(min(own, key=own.__getitem__) == step)
    return sum(found) / len(found), sum(found_in_clip) / len(found_in_clip)


def test_a_repeated_window_scores_as_in_a_slow_loop() -> None:
    recipe = small_recipe()
    torch.manual_seed(3)
    clip = torch.randn(4, 1, 4, 75, 3) + 0.2 * torch.randn(4, 5, 4, 75, 3) + torch.arange(5.0).view(1, 5, 1, 1, 1) / 90
    found = recipe.trivial({"clip": clip})
    expected = slow_repeated(clip, 3)
    assert (found["repeated_accuracy"].item(), found["repeated_accuracy_in_clip"].item()) == pytest.approx(expected)
    assert 1 / 12 < expected[0] < 1
    assert (found["chance"].item(), found["chance_in_clip"].item()) == pytest.approx((1 / 12, 1 / 3))


@pytest.mark.parametrize(("augment", "alike"), [("clip", True), ("window", False)])
def test_windows_share_their_map_or_have_their_own(augment: str, alike: bool) -> None:
    source = MovingHand(0)
    source._pose.keypoints[:] = source._pose.keypoints[:1]  # at rest: only the map makes windows differ
    recipe = small_recipe(augment=augment, pose={"crop": (1.0, 1.0), "jitter": 0, "drop_hand": 0, "warp": 0})
    view = DPC.views(recipe.config, recipe.encoder.input_spec)
    clip = view(source, np.random.default_rng(0))["clip"]  # type: ignore[arg-type]
    assert torch.allclose(clip[0], clip[1], atol=1e-5) == alike
    assert torch.allclose(clip[0, 0], clip[0, -1], atol=1e-5)
