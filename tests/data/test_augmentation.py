"""RandAugment, random erasing and repeated augmentation of clips."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP

from islr.config import validate
from islr.data.loading.batches import TrainBatches
from islr.data.loading.config import DataConfig
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.views.erasing import ErasingConfig, erase_box
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.randaugment import FILL, OPERATIONS, Operation, RandAugmentConfig, apply_operation, rand_augment
from islr.data.views.source import ClipSource
from islr.data.views.views import AugmentConfig, train_view
from islr.errors import UserError
from islr.models import InputSpec

VIDEO = InputSpec(4, 32, (0.45,) * 3, (0.225,) * 3, "video")
POSE = InputSpec(8, 0, (), (), "pose")
STRONG = RandAugmentConfig(magnitude=9, layers=4, probability=1.0)
TIMM: dict[Operation, str] = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


def _clip(frames: int = 3, height: int = 20, width: int = 26) -> np.ndarray:
    """An uneven picture that moves."""
    rows, columns = np.mgrid[:height, :width]
    rows = rows + 2 * (columns % 3 == 0)
    moving = [
        np.stack([40 + 5 * rows + t, 30 + 4 * columns, 200 - 3 * rows - columns + 4 * t], -1) for t in range(frames)
    ]
    return np.clip(moving, 0, 255).astype(np.uint8)


def _source(corpus: Path, **options: Any) -> ClipSource:
    path = str(corpus / "manifest.csv")
    return ClipStore(Manifest.load(path).select("train"), DataConfig(manifest=(path,), **options)).source(0)


def _timm(frame: np.ndarray, operation: Operation, magnitude: float, direction: int, monkeypatch: Any) -> np.ndarray:
    """What timm's increasing operation makes of one frame when its coin shows `direction`."""
    monkeypatch.setattr(random, "random", lambda: 0.9 if direction < 0 else 0.1)
    level = LEVEL_TO_ARG[TIMM[operation]]
    arguments = level(magnitude, {}) if level else ()
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": FILL}
    return np.asarray(NAME_TO_OP[TIMM[operation]](Image.fromarray(frame), *arguments, **options))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_timm_s(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = _clip(1)
    changed = 0
    for magnitude in (0.0, 3.3, 7.0, 9.9):
        for direction in (1, -1):
            ours = apply_operation(frame, operation, magnitude, direction)
            assert np.array_equal(ours[0], _timm(frame[0], operation, magnitude, direction, monkeypatch))
            changed += not np.array_equal(ours, frame)
    assert changed


@pytest.mark.parametrize("operation", OPERATIONS)
def test_frames_get_the_same_treatment(operation: Operation) -> None:
    moving = _clip(3)
    still = np.repeat(moving[:1], 3, axis=0)
    out = apply_operation(still, operation, 7.0, 1)
    assert (out == out[:1]).all()
    if operation in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "sharpness"):
        each = [apply_operation(moving[t : t + 1], operation, 7.0, 1)[0] for t in range(3)]
        assert np.array_equal(apply_operation(moving, operation, 7.0, 1), np.stack(each))
    else:  # one curve for all: what is equal in two frames stays equal
        same = np.concatenate([moving, moving[:1, :, ::-1]])
        out = apply_operation(same, operation, 7.0, 1)
        assert np.array_equal(out[0], out[3][:, ::-1])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_mirrors(operation: Operation) -> None:
    """The edge of a bright left third stays in the left half; a mirror would move it to the right."""
    frames = np.full((1, 60, 60, 3), 40, np.uint8)
    frames[:, :, :20] = 200
    strengths = (3.0,) if operation.startswith("translate") else (3.0, 10.0)  # a large shift moves the edge outside
    for magnitude in strengths:
        for direction in (1, -1):
            row = apply_operation(frames, operation, magnitude, direction)[0, 30, :, 0].astype(int)
            steps = np.abs(np.diff(row))
            assert steps.max() > 5
            assert steps.argmax() < 30


def test_draws_follow_the_generator_alone() -> None:
    clip = _clip()
    first = rand_augment(clip, STRONG, np.random.default_rng(3))
    random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(first, rand_augment(clip, STRONG, np.random.default_rng(3)))
    others = [rand_augment(clip, STRONG, np.random.default_rng(seed)) for seed in range(4, 8)]
    assert not any(np.array_equal(first, other) for other in others)
    assert first.shape == clip.shape
    assert first.dtype == np.uint8


def test_each_operation_is_applied_as_often_as_asked() -> None:
    """With only `invert` to draw, a clip of two layers changes when exactly one of them is applied."""
    config = RandAugmentConfig(layers=2, probability=0.3, operations=("invert",))
    clip = _clip(1, 4, 4)
    rng = np.random.default_rng(0)
    changed = np.mean([not np.array_equal(rand_augment(clip, config, rng), clip) for _ in range(2000)])
    assert changed == pytest.approx(2 * 0.3 * 0.7, abs=0.04)


def test_strengths_vary_around_the_magnitude() -> None:
    config = RandAugmentConfig(magnitude=7, magnitude_std=0.5, layers=1, probability=1, operations=("brightness",))
    clip = np.full((1, 2, 2, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    factors = np.array([rand_augment(clip, config, rng).mean() / 100 for _ in range(1000)])
    strengths = np.abs(factors - 1) / 0.9 * 10
    assert strengths.mean() == pytest.approx(7, abs=0.1)
    assert strengths.std() == pytest.approx(0.5, abs=0.1)
    assert (factors > 1).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"operations": ["hflip"]}, "operations.*'autocontrast'"),
        ({"operations": ["invert", "invert"]}, "listed twice"),
        ({"magnitude": 11}, "magnitude"),
        ({"m": 7}, "unknown key 'm'"),
    ],
)
def test_impossible_randaugment_is_refused(group: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(RandAugmentConfig, group, "here")


def test_erasing_is_one_box_of_all_frames() -> None:
    clip = np.full((5, 40, 48, 3), 7, np.uint8)
    config = ErasingConfig(probability=1.0)
    for seed in range(20):
        out = erase_box(clip, config, (0.45,) * 3, (0.225,) * 3, np.random.default_rng(seed))
        touched = (out != clip).any(axis=-1)
        rows, columns = np.nonzero(touched.any(axis=(0, 2)))[0], np.nonzero(touched.any(axis=(0, 1)))[0]
        box = touched[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean(axis=(1, 2)).min() > 0.9  # noise may hit the old value
        assert 0.01 < box[0].size / touched[0].size < 0.36
        assert not np.array_equal(out[0], out[1])  # the noise is new in every frame
        assert (clip == 7).all()


def test_erasing_writes_what_the_encoder_sees_as_noise_or_zero() -> None:
    clip = np.zeros((8, 64, 64, 3), np.uint8)
    mean, std = (0.3, 0.5, 0.7), (0.05, 0.1, 0.02)
    large = {"probability": 1.0, "area": (0.3, 0.32), "ratio": (1.0, 1.0)}
    noisy = erase_box(clip, ErasingConfig(**large), mean, std, np.random.default_rng(0))  # type: ignore[arg-type]
    inside = noisy[:, noisy[0].any(axis=-1)] / 255
    normalised = (inside - mean) / std
    assert np.abs(normalised.mean(axis=(0, 1))).max() < 0.05
    assert np.abs(normalised.std(axis=(0, 1)) - 1).max() < 0.05
    plain = erase_box(clip, ErasingConfig(fill="mean", **large), mean, std, np.random.default_rng(0))  # type: ignore[arg-type]
    values = np.unique(plain[:, plain[0].any(axis=-1)].reshape(-1, 3), axis=0)
    assert np.abs(values - np.array(mean) * 255).max() <= 0.5


def test_erasing_happens_as_often_as_asked() -> None:
    clip = _clip()
    rng = np.random.default_rng(0)
    config = ErasingConfig(probability=0.25)
    hits = [erase_box(clip, config, (0.5,) * 3, (0.5,) * 3, rng) is not clip for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.25, abs=0.03)
    with pytest.raises(UserError, match="area"):
        validate(ErasingConfig, {"area": [0.5, 1.0]}, "here")
    with pytest.raises(UserError, match="smaller first"):
        validate(ErasingConfig, {"ratio": [2.0, 1.0]}, "here")


def test_blue_first_encoders_get_their_mean_on_the_right_channel(mini_corpus: Path) -> None:
    clips = []
    for channels in ("rgb", "bgr"):
        spec = InputSpec(2, 16, (0.0, 0.5, 1.0), (0.1,) * 3, "video", channels)  # type: ignore[arg-type]
        whole = ErasingConfig(probability=1.0, area=(0.5, 0.5), ratio=(1, 1), fill="mean")
        view = train_view(spec, AugmentConfig(erasing=whole), PoseAugmentConfig())
        clips.append(view(_source(mini_corpus), np.random.default_rng(1))["clip"])
    assert torch.equal(clips[0][1], clips[1][1])  # the mean of green is the same
    erased = (clips[0] != clips[1]).any(dim=0)
    assert erased.any()
    assert torch.equal(clips[0][:, erased], clips[1].flip(0)[:, erased])


def test_repeats_are_augmentations_of_the_same_frames(mini_corpus: Path) -> None:
    read: list[np.ndarray] = []

    class Counted:
        """A clip that remembers what was read."""

        def __init__(self, source: ClipSource) -> None:
            self.source, self.length, self.fps = source, source.length, source.fps

        def read(self, indices: np.ndarray) -> np.ndarray:
            read.append(indices)
            return self.source.read(indices)

    config = AugmentConfig(randaugment=STRONG, erasing=ErasingConfig())
    once, thrice = (train_view(VIDEO, config, PoseAugmentConfig(), repeats) for repeats in (1, 3))
    source = Counted(_source(mini_corpus))
    clip = thrice(source, np.random.default_rng(0))["clip"]  # type: ignore[arg-type]
    assert len(read) == 1
    assert clip.shape == (3, *VIDEO.clip_shape)
    assert torch.equal(clip[0], once(source, np.random.default_rng(0))["clip"])  # type: ignore[arg-type]
    assert not torch.equal(clip[0], clip[1])
    pose = train_view(POSE, config, PoseAugmentConfig(), 2)(_source(mini_corpus), np.random.default_rng(0))["clip"]
    assert pose.shape == (2, *POSE.clip_shape)
    assert not torch.equal(pose[0], pose[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_batches_do_not_depend_on_workers_start_or_processes(mini_corpus: Path, workers: int) -> None:
    view = train_view(VIDEO, AugmentConfig(randaugment=STRONG, erasing=ErasingConfig()), PoseAugmentConfig(), 2)
    path = str(mini_corpus / "manifest.csv")
    train = Manifest.load(path).select("train")

    def batches(first: int, **options: Any) -> list[dict[str, Any]]:
        store = ClipStore(train, DataConfig(manifest=(path,), workers=workers))
        stream = TrainBatches(store, view, batch_size=4, seed=1, **options).iterate(first, 5)
        return [part for parts in stream for part in parts]

    store = ClipStore(train, DataConfig(manifest=(path,)))
    whole = [parts[0] for parts in TrainBatches(store, view, batch_size=4, seed=1).iterate(0, 5)]
    for expected, found in zip(whole[3:], batches(3), strict=True):
        assert torch.equal(expected["clip"], found["clip"])
    shares = [batches(3, rank=rank, world=2) for rank in range(2)]
    for expected, *found in zip(whole[3:], *shares, strict=True):
        assert torch.equal(expected["clip"], torch.cat([part["clip"] for part in found]))
