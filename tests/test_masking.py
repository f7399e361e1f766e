"""Masks: counts, where they lie, and the published generator reproduced draw by draw."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from oracle_helpers import oracle_entry, oracle_file

from pretrain.masking import cell_motion, cube_mask, exact_cube_mask, motion_cube_mask, motion_mask


def draw(generator, window: tuple[int, int, int], ratio: float, count: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    return np.stack([generator(window, ratio, rng) for _ in range(count)])


@pytest.mark.parametrize("generator", [cube_mask, exact_cube_mask])
def test_masks_depend_on_the_generator_alone(generator) -> None:  # type: ignore[no-untyped-def]
    one, same, other = (generator((4, 4, 4), 0.4, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.dtype == bool
    assert one.shape == (4, 4, 4)


def test_published_masks_are_ragged_and_never_above_the_target() -> None:
    counts = draw(cube_mask, (4, 4, 4), 0.4, 300).sum(axis=(1, 2, 3))
    assert counts.max() == round(64 * 0.4)
    assert counts.min() < counts.max()
    assert counts.min() > 15


@pytest.mark.parametrize("window", [(4, 4, 4), (8, 7, 7), (1, 2, 2), (16, 2, 5)])
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.9])
def test_exact_masks_have_the_count(window: tuple[int, int, int], ratio: float) -> None:
    counts = draw(exact_cube_mask, window, ratio, 20).sum(axis=(1, 2, 3))
    assert (counts == round(np.prod(window) * ratio)).all()


def test_exact_masks_hide_the_edges_as_often_as_the_middle() -> None:
    place = draw(exact_cube_mask, (8, 7, 7), 0.4, 1500).mean(axis=(0, 1))
    assert place.max() - place.min() < 0.1
    published = draw(cube_mask, (8, 7, 7), 0.4, 1500).mean(axis=(0, 1))
    assert published[3, 3] > 4 * published[0, 0]


def test_exact_masks_are_made_of_blocks() -> None:
    masks = draw(exact_cube_mask, (8, 7, 7), 0.4, 200)
    stays = (masks[:, 1:] & masks[:, :-1]).sum() / masks[:, :-1].sum()
    assert stays > 0.7  # single random cells would give 0.4


def test_motion_cuboids_have_the_count_and_follow_movement() -> None:
    rng = np.random.default_rng(0)
    motion = np.zeros((8, 7, 7))
    motion[2:6, :2, 5:] = 9.0  # a hand in a corner, where published masks hide least
    masks = np.stack([motion_cube_mask(motion, 0.4, rng) for _ in range(200)])
    assert (masks.sum(axis=(1, 2, 3)) == 157).all()
    assert masks[:, 2:6, :2, 5:].mean() > 0.7
    assert masks[:, :, 5:, :2].mean() < 0.4  # the far corner
    assert masks[:, :, 5:, :2].mean() > 0.1  # but not never
    stays = (masks[:, 1:] & masks[:, :-1]).sum() / masks[:, :-1].sum()
    assert stays > 0.7
    still = np.stack([motion_cube_mask(np.zeros((8, 7, 7)), 0.4, rng) for _ in range(200)])
    assert (still.sum(axis=(1, 2, 3)) == 157).all()
    assert still.mean(axis=(0, 1)).min() > 0.2


def test_cell_motion_is_where_and_when_pixels_change() -> None:
    clip = np.full((3, 8, 32, 32), 200, np.uint8)
    clip[:, 5, 16:20, :4] = 0  # one flash in the sixth frame: two differences of 200 in 16 of 256 pixels
    motion = cell_motion(clip, (4, 2, 2))
    assert motion.shape == (4, 2, 2)
    expected = np.zeros((4, 2, 2))
    expected[2:, 1, 0] = 200**2 * 16 / 256 / 2  # over the two frames of a moment
    assert motion == pytest.approx(expected)


def test_motion_masks_follow_movement_up_to_chance() -> None:
    motion = np.zeros((10, 3))
    motion[4:7, 1] = 5.0
    rng = np.random.default_rng(0)
    guided = np.stack([motion_mask(motion, 0.3, 1.0, rng) for _ in range(200)])
    blind = np.stack([motion_mask(motion, 0.3, 0.0, rng) for _ in range(200)])
    assert (guided.sum(axis=(1, 2)) == 9).all()
    assert guided[:, 4:7, 1].mean() > 0.55
    assert blind[:, 4:7, 1].mean() == pytest.approx(0.3, abs=0.06)
    assert motion_mask(np.zeros((10, 3)), 0.3, 1.0, rng).sum() == 9


def test_a_part_that_keeps_moving_is_seen_as_often_as_the_others() -> None:
    motion = np.zeros((40, 3))
    motion[:, 2] = 1.0
    motion[3, 2] = 50.0  # one jerk
    rng = np.random.default_rng(0)
    hidden = np.stack([motion_mask(motion, 0.75, 1.0, rng) for _ in range(100)]).mean(axis=(0, 1))
    assert hidden == pytest.approx([0.75] * 3, abs=0.04)


class PythonRandom:
    """The two draws that masks make, from Python's generator, which the original uses."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        assert endpoint
        return self._random.randint(low, high)


@pytest.mark.oracle
def test_published_masks_are_reproduced_cell_by_cell(oracles: Path) -> None:
    _, tensors = oracle_entry(oracles, "masks.safetensors")
    stats = json.loads(oracle_file(oracles, "masks_stats.json").read_text())
    recorded = tensors["maskfeat_first64"].bool().numpy()
    rng = PythonRandom(stats["python_random_seed"])
    for mask in recorded:
        assert np.array_equal(cube_mask(mask.shape, 0.4, rng), mask)  # type: ignore[arg-type]


@pytest.mark.oracle
def test_published_statistics(oracles: Path) -> None:
    stats = json.loads(oracle_file(oracles, "masks_stats.json").read_text())
    _, tensors = oracle_entry(oracles, "masks.safetensors")
    window = tuple(tensors["maskfeat_first64"].shape[1:])
    masks = draw(cube_mask, window, 0.4, 1500)
    counts = masks.sum(axis=(1, 2, 3))
    assert counts.mean() == pytest.approx(stats["count"]["mean"], abs=0.3)
    assert counts.max() == stats["count"]["max"]
    assert (counts == counts.max()).mean() == pytest.approx(stats["count"]["frac_exact_157"], abs=0.05)
    assert np.abs(masks.mean(axis=(0, 1)) - stats["spatial_prob_map_mean_over_t"]).max() < 0.04
    assert np.abs(masks.sum(axis=(2, 3)).mean(axis=0) - stats["masked_per_frame_mean"]).max() < 1.2
