"""Masks that follow movement, hands and faces: boxes lie on what is rendered, and what lies in them is hidden more."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.tiny_runs import PRETRAIN, write_config
from typer.testing import CliRunner

from islr.cli import app
from islr.data.loading.config import DataConfig
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND
from islr.data.views.input_spec import InputSpec
from islr.data.views.randaugment import RandAugmentConfig
from islr.data.views.signer_boxes import FACE, signer_boxes
from islr.data.views.source import ClipSource
from islr.data.views.views import AugmentConfig, CroppedClip, training_crop
from islr.errors import UserError
from pretrain.maskfeat import MaskFeat, MaskFeatConfig
from pretrain.masks.saliency import box_shares, cell_hands, cell_motion, check_poses
from pretrain.recipe import Recipe
from pretrain.videomae import VideoMAE

SPEC = InputSpec(8, 64, (0.45,) * 3, (0.225,) * 3, "video")
CROPS = AugmentConfig(scale=(0.4, 0.8), flip=True)
WHOLE = AugmentConfig(scale=(0.9, 1.0), ratio=(1.0, 1.0))
WINDOW = (4, 8, 8)


@pytest.fixture(scope="module")
def sources(mini_corpus: Path) -> list[ClipSource]:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    store = ClipStore(manifest, DataConfig(manifest=(str(mini_corpus / "manifest.csv"),), cache="memory"))
    store.fill_cache()
    return [store.source(index) for index in range(6)]


def test_cell_motion_is_where_and_when_pixels_change() -> None:
    clip = np.full((3, 8, 32, 32), 200, np.uint8)
    clip[:, 5, 16:20, :4] = 0  # one flash in the sixth frame: two differences of 200 in 16 of 256 pixels
    motion = cell_motion(clip, (4, 2, 2))
    assert motion.shape == (4, 2, 2)
    expected = np.zeros((4, 2, 2))
    expected[2:, 1, 0] = 200**2 * 16 / 256 / 2  # over the two frames of a moment
    assert motion == pytest.approx(expected)


def test_shares_are_what_boxes_take_up_of_each_cell() -> None:
    boxes = np.zeros((4, 2, 4))
    boxes[0, 0] = (0.25, 0.0, 0.5, 0.5)  # of the first moment's two frames, one
    boxes[2:, 1] = (-1.0, 0.75, 2.0, 1.5)  # beyond the picture
    shares = box_shares(boxes, (2, 2, 2))
    expected = np.zeros((2, 2, 2, 2))
    expected[0, 0, 0, 0] = 0.5 / 2
    expected[1, 1, 1] = 0.5
    assert shares == pytest.approx(expected)


def test_boxes_follow_the_crop_the_mirror_and_the_frames(sources: list[ClipSource]) -> None:
    """A white spot painted where the pose has a hand is in the hand's box in whatever a view cuts out."""
    rng = np.random.default_rng(0)
    source, met = sources[0], 0
    pose = source.pose()

    class Painted:
        length, fps = source.length, source.fps

        def __init__(self, part: slice) -> None:
            self.part = part

        def read(self, indices: np.ndarray) -> np.ndarray:
            frames = np.zeros((len(indices), 240, 320, 3), np.uint8)
            for frame, index in zip(frames, indices, strict=True):
                x, y = pose.keypoints[index, self.part, :2].mean(axis=0) * (320, 240)
                cv2.circle(frame, (round(float(x)), round(float(y))), 3, (255, 255, 255), -1)
            return frames

    for number, part in enumerate((LEFT_HAND, RIGHT_HAND, FACE)):
        for _ in range(6):
            shot = training_crop(Painted(part), SPEC, CROPS, rng)  # type: ignore[arg-type]
            boxes = signer_boxes(pose, shot, source.length)[:, number] * SPEC.size
            for frame, (left, top, right, bottom) in zip(shot.frames, boxes, strict=True):
                rows, columns = np.nonzero(frame[..., 0] > 200)
                if len(rows):
                    met += 1
                    assert left - 1 <= columns.mean() <= right
                    assert top - 1 <= rows.mean() <= bottom
    assert met > 60


def test_poses_at_another_rate_and_missing_points(sources: list[ClipSource]) -> None:
    source = sources[0]
    pose = source.pose()
    whole = CroppedClip(np.zeros((8, 64, 64, 3), np.uint8), np.arange(8) * source.length // 8, (0, 0, 1, 1), False)
    boxes = signer_boxes(pose, whole, source.length)
    twice = replace(pose, keypoints=pose.keypoints.repeat(2, axis=0), confidences=pose.confidences.repeat(2, axis=0))
    assert np.array_equal(signer_boxes(twice, whole, source.length), boxes)
    blind = pose.confidences.copy()
    blind[:, RIGHT_HAND] = 0
    blind[:3, LEFT_HAND] = 0
    lost = signer_boxes(replace(pose, confidences=blind), whole, source.length)
    assert (lost[:, 1] == 0).all()
    assert (lost[whole.indices < 3, 0] == 0).all()
    assert np.array_equal(lost[whole.indices >= 3, 0], boxes[whole.indices >= 3, 0])
    assert np.array_equal(lost[:, 2], boxes[:, 2])


@pytest.mark.parametrize(
    ("recipe", "plain", "guided", "count"),
    [
        (MaskFeat, {"mask": "exact_cube"}, {"mask": "hand_cube"}, round(4 * 64 * 0.6)),
        (VideoMAE, {"mask": "tube"}, {"mask": "hand_tube", "guidance": 2.0}, 4 * int(64 * 0.6)),
    ],
)
def test_hands_are_hidden_more_often_in_rendered_clips(
    sources: list[ClipSource], recipe: type[Recipe], plain: dict[str, Any], guided: dict[str, Any], count: int
) -> None:
    options = {"mask_ratio": 0.6, "mask_pixels": 8, "video": WHOLE}
    by_hand = recipe.views(recipe.Config(**options, **guided, face_weight=0.0), SPEC)
    by_chance = recipe.views(recipe.Config(**options, **plain), SPEC)
    more = []  # share of the hands' area that is hidden, over what chance hides of it
    for source in sources:
        for seed in range(25):
            hands = cell_hands(source, training_crop(source, SPEC, WHOLE, np.random.default_rng(seed)), WINDOW, 0.0)
            masks = [view(source, np.random.default_rng(seed))["mask"] for view in (by_hand, by_chance)]
            assert [mask.sum() for mask in masks] == [count, count]
            more.append((hands[masks[0]].sum() - hands[masks[1]].sum()) / hands.sum())
    assert np.mean(more) > max(0.05, 4 * np.std(more) / np.sqrt(len(more)))
    again = [by_hand(sources[0], np.random.default_rng(seed))["mask"] for seed in (7, 7, 8)]
    assert np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])


def test_faces_count_as_much_as_asked(sources: list[ClipSource]) -> None:
    shot = training_crop(sources[0], SPEC, AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0)), np.random.default_rng(0))
    face = box_shares(signer_boxes(sources[0].pose(), shot, sources[0].length), (4, 8, 8))[2]
    hands, both, half = (cell_hands(sources[0], shot, (4, 8, 8), weight) for weight in (0.0, 1.0, 0.5))
    assert face.max() > 0.9  # some cell is full of face
    assert np.array_equal(both, np.maximum(hands, face))
    assert np.array_equal(half, np.maximum(hands, 0.5 * face))


def test_clips_without_a_pose_are_masked_by_chance_counted_and_told(
    mini_corpus: Path, tmp_path: Path, sources: list[ClipSource]
) -> None:
    config = MaskFeatConfig(mask="hand_cube", mask_pixels=16)
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    assert check_poses(config, manifest) == ""
    assert check_poses(MaskFeatConfig(mask="cube"), manifest.replace(replace(clip, pose="") for clip in manifest)) == ""
    bare = manifest.replace(replace(clip, pose="") for clip in manifest)
    with pytest.raises(UserError, match="mask=hand_cube follows poses and no clip"):
        check_poses(config, bare)
    moved = config.model_copy(update={"video": AugmentConfig(randaugment=RandAugmentConfig())})
    with pytest.raises(UserError, match="cannot follow RandAugment"):
        check_poses(moved, manifest)
    some = manifest.replace(replace(clip, pose="" if row % 2 else clip.pose) for row, clip in enumerate(manifest))
    some.save(mini_corpus / "half.csv")
    recipe = {"name": "maskfeat", "mask_pixels": 16, "mask": "hand_cube"}
    optim = {"epochs": 1, "warmup_epochs": 0}
    path = write_config(
        PRETRAIN, tmp_path / "run.yaml", mini_corpus / "half.csv", tmp_path / "run", recipe=recipe, optim=optim
    )
    done = CliRunner().invoke(app, ["pretrain", str(path)])
    assert done.exit_code == 0, done.output
    assert "clips have no pose" in done.stderr
    assert "their masks are random" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [row["guided"] for row in rows if "guided" in row]
    assert 0.2 < np.mean(shares) < 0.8
