"""Frame sampling, crops and pose augmentation."""

import numpy as np
import pytest

from islr.data.manifest import Clip
from islr.data.views.crops import random_resized_crop, spatial_crop
from islr.data.views.poses import MIRROR, PoseAugmentConfig, augment_pose, resample_pose, warped_times
from islr.data.views.sampling import SamplingConfig, uniform_indices
from islr.data.views.views import AugmentConfig


@pytest.mark.parametrize("length", [1, 5, 16, 57, 195])
def test_uniform_takes_one_frame_of_every_segment(length: int) -> None:
    for rng in (None, np.random.default_rng(0)):
        indices = uniform_indices(length, 16, rng)
        segments = np.floor(indices * 16 / length)
        assert (np.diff(indices) >= 0).all()
        assert indices.min() >= 0
        assert indices.max() < length
        if length >= 16:
            assert (np.abs(segments - np.arange(16)) <= 1).all()
    assert uniform_indices(64, 8).tolist() == [4, 12, 20, 28, 36, 44, 52, 60]


def test_windows_are_spaced_in_time_not_in_frames() -> None:
    window = SamplingConfig(kind="window", stride=4)
    assert np.diff(window.indices(200, 30.0, 8, None)).tolist() == [4] * 7
    assert np.diff(window.indices(200, 60.0, 8, None)).tolist() == [8] * 7
    assert window.indices(10, 30.0, 8, None).tolist() == [0, 4, 8, 9, 9, 9, 9, 9]
    drawn = [window.indices(200, 30.0, 8, np.random.default_rng(seed)) for seed in range(20)]
    assert len({int(indices[0]) for indices in drawn}) > 5
    assert all(np.diff(indices).tolist() == [4] * 7 for indices in drawn)


def test_auto_takes_a_window_of_a_long_clip_and_all_of_a_short_one() -> None:
    auto, rng = SamplingConfig(kind="auto", stride=4), np.random.default_rng(0)
    assert (
        auto.indices(64, 30.0, 16, None).tolist() == SamplingConfig(kind="window").indices(64, 30.0, 16, None).tolist()
    )
    assert auto.indices(63, 30.0, 16, None).tolist() == uniform_indices(63, 16).tolist()
    assert auto.indices(64, 60.0, 16, None).tolist() == uniform_indices(64, 16).tolist()  # 1.1 s, too short
    short = [auto.indices(48, 30.0, 16, rng) for _ in range(20)]
    assert all(np.diff(indices).tolist() == [3] * 15 for indices in short)  # evenly, in training too
    assert {int(indices[0]) for indices in short} == {0, 1, 2}
    clips = [Clip("a", "a", frames=90, fps=30.0), Clip("b", "b", frames=50, fps=25.0), Clip("c", "c")]
    assert auto.describe(clips, 16) == "sampling auto: windows of 2.1 s from 1 clips, 1 shorter clips whole"
    assert SamplingConfig().describe(clips, 16) == ""


def test_a_long_clip_is_taken_as_often_as_windows_fit_into_it() -> None:
    clips = [Clip(str(n), "a", frames=n, fps=30.0) for n in (40, 64, 130, 640)] + [Clip("unmeasured", "a")]
    video = AugmentConfig.model_validate({"sampling": {"kind": "auto"}, "windows": 3})
    assert video.repeats(clips, 16) == [1, 1, 2, 3, 1]
    assert AugmentConfig().repeats(clips, 16) == [1] * 5
    assert video.describe(clips, 16).endswith("; an epoch takes 8 windows")
    with pytest.raises(ValueError, match=r"windows acts only with sampling\.kind: window or auto"):
        AugmentConfig(windows=2)


def test_places_of_test_views() -> None:
    auto = SamplingConfig(kind="auto", stride=4)
    assert auto.places(200, 30.0, 16, 3) == [0, 0.5, 1]
    assert auto.places(50, 30.0, 16, 2) == SamplingConfig().places(200, 30.0, 16, 2) == [0.25, 0.75]
    assert auto.places(200, 30.0, 16, 1) == [0.5]


def test_crops_keep_their_place() -> None:
    frames = np.zeros((2, 20, 40, 3), np.uint8)
    frames[:, :, :10, 0] = 200  # left quarter is red
    assert spatial_crop(frames, 20, 0.0)[0, 0, 0, 0] == 200
    assert spatial_crop(frames, 20, 1.0)[..., 0].max() == 0
    assert spatial_crop(frames, 10, 0.5).shape == (2, 10, 10, 3)
    pixels = np.arange(40 * 20, dtype=np.uint8).reshape(1, 20, 40, 1).repeat(3, axis=3)
    assert (spatial_crop(pixels, 10, 0.5, 20) == pixels[:, 5:15, 15:25]).all()
    assert (spatial_crop(pixels, 10, 1.0, 20) == pixels[:, 5:15, 30:]).all()
    assert (spatial_crop(pixels.swapaxes(1, 2), 10, 0.0, 20) == pixels[:, 5:15, :10].swapaxes(1, 2)).all()


def test_random_crop_is_one_box_for_all_frames() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None], (3, 48, 64, 3))
    out = random_resized_crop(ramp, 16, (0.3, 0.6), (0.75, 4 / 3), np.random.default_rng(1))
    assert out.shape == (3, 16, 16, 3)
    assert (out[0] == out[1]).all()
    assert (out[0] == out[2]).all()
    assert out.max() - out.min() < 60


def test_resampling_never_mixes_with_an_absent_joint() -> None:
    pose = np.zeros((3, 75, 3), np.float32)
    pose[..., 0] = np.array([0.0, 1.0, 2.0])[:, None]
    pose[..., 2] = 1
    pose[1, 40] = 0  # absent in the middle frame
    out = resample_pose(pose, np.array([0.5, 1.5]))
    assert out[:, 10, 0].tolist() == [0.5, 1.5]
    assert out[0, 40, 0] == 0.0
    assert out[0, 40, 2] == 1.0
    assert out[1, 40, 2] == 0.0


def test_a_warp_of_time_keeps_both_ends_and_the_order() -> None:
    times = np.stack([warped_times(32, 0.5, np.random.default_rng(seed)) for seed in range(50)])
    assert (times[:, 0] == 0).all()
    assert np.allclose(times[:, -1], 1)
    steps = np.diff(times, axis=1)
    assert (steps > 0).all()
    assert 0.2 < np.log(31 * steps).std() < 0.6  # no more than the deviation: between knots, draws are averaged
    assert warped_times(1, 0.5, np.random.default_rng(0)).tolist() == [0.0]


def test_pose_augmentation_is_a_similarity_up_to_its_options() -> None:
    pose = np.random.default_rng(0).normal(size=(6, 75, 3)).astype(np.float32)
    pose[..., 2] = 1
    still = PoseAugmentConfig(rotation=0, scale=0, shear=0, shift=0, jitter=0, drop_hand=0)
    assert np.allclose(augment_pose(pose, still, np.random.default_rng(0)), pose, atol=1e-6)
    mirrored = augment_pose(pose, still.model_copy(update={"mirror": 1.0}), np.random.default_rng(0))
    assert np.allclose(mirrored[:, 15, 0], -pose[:, 16, 0])
    assert (MIRROR[MIRROR] == np.arange(75)).all()
    turned = augment_pose(pose, still.model_copy(update={"rotation": 0.5}), np.random.default_rng(3))
    between = np.linalg.norm(pose[:, 11, :2] - pose[:, 12, :2], axis=1)
    assert np.allclose(np.linalg.norm(turned[:, 11, :2] - turned[:, 12, :2], axis=1), between, atol=1e-5)
    assert not np.allclose(turned, pose, atol=1e-2)


def test_at_least_one_hand_stays() -> None:
    pose = np.ones((4, 75, 3), np.float32)
    config = PoseAugmentConfig(drop_hand=0.9)
    for seed in range(30):
        seen = augment_pose(pose, config, np.random.default_rng(seed))[0, 33:, 2] > 0
        assert seen[:21].any() or seen[21:].any()


@pytest.mark.parametrize("idle", [{"stride": 2}, {"target_fps": 25.0}])
def test_options_of_the_window_are_refused_without_it(idle: dict[str, float]) -> None:
    assert SamplingConfig.model_validate({"kind": "window", **idle})
    assert SamplingConfig.model_validate({"kind": "auto", **idle})
    with pytest.raises(ValueError, match=f"{next(iter(idle))} acts only with kind: window"):
        SamplingConfig.model_validate(idle)
    assert SamplingConfig.model_validate(SamplingConfig().model_dump()) == SamplingConfig()  # as a run writes it
