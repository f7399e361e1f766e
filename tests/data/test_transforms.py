"""Frame sampling, crops and pose augmentation."""

import numpy as np
import pytest

from islr.data.views.crops import random_resized_crop, spatial_crop
from islr.data.views.poses import MIRROR, PoseAugmentConfig, augment_pose, resample_pose, warped_times
from islr.data.views.sampling import SamplingConfig, span_indices, uniform_indices


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


def test_span_is_spaced_in_time_not_in_frames() -> None:
    assert np.diff(span_indices(200, 30.0, 8, 4)).tolist() == [4] * 7
    assert np.diff(span_indices(200, 60.0, 8, 4)).tolist() == [8] * 7
    assert span_indices(10, 30.0, 8, 4).tolist() == [0, 4, 8, 9, 9, 9, 9, 9]
    starts = {int(span_indices(200, 30.0, 8, 4, np.random.default_rng(seed))[0]) for seed in range(20)}
    assert len(starts) > 5


def test_crops_keep_their_place() -> None:
    frames = np.zeros((2, 20, 40, 3), np.uint8)
    frames[:, :, :10, 0] = 200  # left quarter is red
    assert spatial_crop(frames, 20, 0.0)[0, 0, 0, 0] == 200
    assert spatial_crop(frames, 20, 1.0)[..., 0].max() == 0
    assert spatial_crop(frames, 10, 0.5).shape == (2, 10, 10, 3)


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
    assert SamplingConfig.model_validate({"kind": "span", **idle})
    with pytest.raises(ValueError, match=f"{next(iter(idle))} acts only with kind: span"):
        SamplingConfig.model_validate(idle)
    assert SamplingConfig.model_validate(SamplingConfig().model_dump()) == SamplingConfig()  # as a run writes it
