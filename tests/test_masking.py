"""Masks: counts, where they lie, and the published generator reproduced draw by draw."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from oracle_helpers import oracle_entry, oracle_file

from pretrain.masking import cube_mask, exact_cube_mask, motion_mask, motion_tube_mask, tube_mask


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


def test_tubes_hide_the_same_places_at_all_times() -> None:
    masks = draw(tube_mask, (3, 4, 5), 0.77, 400)
    assert masks.shape == (400, 3, 4, 5)
    assert (masks == masks[:, :1]).all()
    assert (masks[:, 0].sum(axis=(1, 2)) == 15).all()  # of 20 x .77 = 15.4
    assert masks[:, 0].mean(axis=0) == pytest.approx(np.full((4, 5), 0.75), abs=0.12)


def test_motion_tubes_hide_what_moves_up_to_chance() -> None:
    motion = np.zeros((4, 4))
    motion[1, 1:3] = [3.0, 900.0]
    masks = {
        guidance: draw(lambda *rest, g=guidance: motion_tube_mask(*rest[:2], motion, g, rest[2]), (3, 4, 4), 0.6, 300)
        for guidance in (0.0, 1.0, 20.0)
    }
    for drawn in masks.values():
        assert (drawn == drawn[:, :1]).all()
        assert (drawn[:, 0].sum(axis=(1, 2)) == 9).all()
    assert masks[20.0][:, 0, 1, 1:3].all()
    assert 0.75 < masks[1.0][:, 0, 1, 1:3].mean() < 1  # by rank: the strong movement is no surer to be hidden
    assert masks[0.0][:, 0, 1, 1:3].mean() == pytest.approx(9 / 16, abs=0.08)


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
def test_published_tubes_are_reproduced_cell_by_cell(oracles: Path) -> None:
    _, tensors = oracle_entry(oracles, "masks.safetensors")
    tube = json.loads(oracle_file(oracles, "masks_stats.json").read_text())["tube"]
    recorded = tensors["tube09_first64"].bool().numpy()
    tokens = recorded.shape[1]
    times = (tokens - tube["masked_per_clip"]) // tube["visible_per_frame"]
    side = math.isqrt(tokens // times)
    ratio = (tube["masked_per_clip"] // times + 0.5) / side**2  # the count is rounded down
    rng = np.random.RandomState(tube["numpy_seed"])
    for mask in recorded:
        drawn = tube_mask((times, side, side), ratio, rng)  # type: ignore[arg-type]
        assert np.array_equal(drawn.ravel(), mask)


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
