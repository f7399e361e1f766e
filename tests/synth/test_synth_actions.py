"""Whole-body actions: labels and lists as Kinetics has them, legs that bend, motions that differ."""

import numpy as np
import pytest
from support.undrawn import undrawn

from islr.data.corpora.published import from_kinetics
from islr.data.manifest import Manifest
from islr.data.poses.pose import read_pose
from islr.synth import SynthOptions, write_corpus
from islr.synth.clip import Take, pose_of
from islr.synth.kinds.actions import SECONDS, Actions
from islr.synth.kinematics.actions import ACTIONS
from islr.synth.kinematics.strokes import Style
from islr.synth.kinematics.wholebody import Motion, act
from islr.synth.signer import generator, make_signer

OPTIONS = SynthOptions(kind="actions", signs=2, signers=3, reps=1, size=48, val_signers=1, test_signers=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    with undrawn("kinds.actions"):
        return write_corpus(tmp_path_factory.mktemp("actions"), OPTIONS)


STILL = Style()


def _act(name: str, signer: int = 0, style: Style = STILL, seed: int = 1) -> Motion:
    return act(ACTIONS[name], make_signer(0, signer).body, style, 25.0, 100, generator(seed))


def test_the_list_reads_as_kinetics(corpus: Manifest) -> None:
    assert len(ACTIONS) >= 12
    assert corpus.classes == tuple(ACTIONS)[:2]
    root = corpus.root
    read = from_kinetics(root / "kinetics.csv", root / "videos", poses=root / "poses", root=root, workers=1)
    assert [(c.clip_id, c.gloss, c.label, c.split, c.frames, c.path, c.pose, c.status) for c in read] == [
        (c.clip_id, c.gloss, c.label, c.split, c.frames, c.path, c.pose, c.status) for c in corpus
    ]
    for clip in corpus:
        assert clip.frames is not None
        assert clip.fps is not None
        assert clip.frames / clip.fps == pytest.approx(SECONDS, abs=0.03)
        pose_file = corpus.pose_of(clip)
        assert pose_file is not None
        assert read_pose(pose_file).confidences.min() == 1  # legs are in the picture


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_bones_keep_their_lengths_and_feet_stay_on_or_above_the_ground(name: str) -> None:
    points = _act(name).points
    for joints in ((11, 13, 15), (12, 14, 16), (23, 25, 27), (24, 26, 28)):
        bones = np.linalg.norm(np.diff(points[:, joints], axis=1), axis=-1)
        np.testing.assert_allclose(bones, np.broadcast_to(bones[:1], bones.shape), atol=1e-9)
    for hip, knee, ankle in ((23, 25, 27), (24, 26, 28)):  # no knee bends backwards
        forward = np.cross(points[:, 23] - points[:, 24], [0.0, 1.0, 0.0])
        on_line = 0.5 * (points[:, hip] + points[:, ankle])
        assert np.sum((points[:, knee] - on_line) * forward, axis=1).min() > -0.005
    ground = points[:, 27:29, 1].min(axis=1)
    assert ground.min() > np.median(ground) - 0.06
    step = np.linalg.norm(np.diff(points, axis=0), axis=-1).max() * 25
    assert 0.5 < step < 14  # metres per second: something moves, fingertips fast in a throw, nothing jumps


def test_actions_differ_more_than_people_do() -> None:
    """The nearest neighbour of a person's action is the same action by another person."""

    def vector(name: str, signer: int) -> np.ndarray:
        person = make_signer(0, signer)
        points = _act(name, signer, person.style, seed=signer + 2).points - [0.0, -person.body.torso, 0.0]
        if person.style.left_handed:
            points = points * [-1, 1, 1]
        still = points.std(axis=0)
        return np.concatenate([still.ravel(), np.percentile(points, [10, 50, 90], axis=0).ravel()])

    seen = {name: [vector(name, signer) for signer in (0, 1, 2)] for name in ACTIONS}
    right = 0
    for name in ACTIONS:
        query = vector(name, 4)
        nearest = min(ACTIONS, key=lambda other: min(float(np.linalg.norm(query - one)) for one in seen[other]))
        right += nearest == name
    assert right >= 0.8 * len(ACTIONS)


def test_a_turn_shows_the_back_and_a_left_handed_person_mirrors() -> None:
    points = _act("turn").points
    assert (points[:, 11, 0] - points[:, 12, 0]).min() < -0.2 < 0.2 < (points[0, 11, 0] - points[0, 12, 0])
    right, left = _act("wave").points, _act("wave", style=Style(left_handed=True)).points
    np.testing.assert_allclose(left[:, 54:] * [-1, 1, 1], right[:, 33:54], atol=1e-12)
    assert right[:, 16, 1].max() > 0 > right[:, 15, 1].max()


@pytest.mark.parametrize("item", [4, 15])
def test_people_are_drawn_where_the_pose_says(item: int) -> None:
    """The person covers the middles of the trunk and of the thighs, which the empty wall and floor do not."""
    corpus = Actions(SynthOptions(kind="actions", size=96, difficulty="easy"))
    footage = corpus.film(Take(item, 1, 0))
    pictures = list(footage.pictures)
    points = pose_of(footage).keypoints[:, :, :2] * 96
    wall = np.array(pictures[0][3, 3], dtype=int)
    for index in range(0, len(pictures), 7):
        chest = points[index, [11, 12, 23, 24]].mean(axis=0)
        thigh = points[index, [23, 25]].mean(axis=0)
        for x, y in (chest, thigh):
            color = pictures[index][int(y), int(x)].astype(int)
            assert np.abs(color - wall).max() > 25, index
