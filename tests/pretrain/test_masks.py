"""Masks: counts, where they lie, and the published generator reproduced draw by draw."""

import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from support.oracle_helpers import oracle_entry, oracle_file

from pretrain.masks.draw import (
    block_mask,
    block_tube_mask,
    cube_mask,
    exact_cube_mask,
    motion_mask,
    motion_tube_mask,
    tube_mask,
    weighted_cube_mask,
    weighted_tube_mask,
)


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


def test_weighted_cuboids_have_the_count_and_follow_their_weights() -> None:
    rng = np.random.default_rng(0)
    motion = np.zeros((8, 7, 7))
    motion[2:6, :2, 5:] = 9.0  # a hand in a corner, where published masks hide least
    masks = np.stack([weighted_cube_mask(motion, 0.4, rng) for _ in range(200)])
    assert (masks.sum(axis=(1, 2, 3)) == 157).all()
    assert masks[:, 2:6, :2, 5:].mean() > 0.7
    assert masks[:, :, 5:, :2].mean() < 0.4  # the far corner
    assert masks[:, :, 5:, :2].mean() > 0.1  # but not never
    stays = (masks[:, 1:] & masks[:, :-1]).sum() / masks[:, :-1].sum()
    assert stays > 0.7
    still = np.stack([weighted_cube_mask(np.zeros((8, 7, 7)), 0.4, rng) for _ in range(200)])
    assert (still.sum(axis=(1, 2, 3)) == 157).all()
    assert still.mean(axis=(0, 1)).min() > 0.2


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


def test_weighted_tubes_seldom_leave_visible_what_matters() -> None:
    weight = np.zeros((4, 4))
    weight[1, 1:3] = [1.0, 0.5]
    masks = {
        guidance: draw(lambda *rest, g=guidance: weighted_tube_mask(*rest[:2], weight, g, rest[2]), (3, 4, 4), 0.6, 600)
        for guidance in (0.0, 2.0)
    }
    for drawn in masks.values():
        assert (drawn == drawn[:, :1]).all()
        assert (drawn[:, 0].sum(axis=(1, 2)) == 9).all()
    assert masks[0.0].mean(axis=(0, 1)) == pytest.approx(np.full((4, 4), 9 / 16), abs=0.08)
    hand, half, rest = masks[2.0][:, 0, 1, 1].mean(), masks[2.0][:, 0, 1, 2].mean(), masks[2.0][:, 0, 0].mean()
    assert rest + 0.1 < half < hand - 0.05 < 0.95  # and what matters is seen now and then


def test_blocks_are_rectangles_near_the_count_and_never_above_it() -> None:
    rng = np.random.default_rng(0)
    masks = np.stack([block_mask((8, 12), 40, 6, rng) for _ in range(300)])
    counts = masks.sum(axis=(1, 2))
    assert counts.max() == 40
    assert counts.mean() > 38
    beside = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks[:, :, :-1].sum()
    assert beside > 0.75  # single random cells would give 0.42
    assert all(block_mask((8, 12), 9, 2, rng, largest=9).sum() <= 9 for _ in range(50))


def test_tubes_hide_one_plane_at_a_run_of_moments_that_may_wrap() -> None:
    plane = np.array([[True, False], [False, True]])
    rng = np.random.default_rng(0)
    masks = np.stack([block_tube_mask(plane, 8, (0.5, 1.0), rng) for _ in range(400)])
    hidden = masks[:, :, 0, 0]
    assert np.array_equal(masks, hidden[..., None, None] & plane)
    assert set(hidden.sum(axis=1)) == {4, 5, 6, 7, 8}
    ends = (hidden != np.roll(hidden, 1, axis=1)).sum(axis=1)
    assert set(ends) == {0, 2}  # one run on the circle
    assert 0.3 < (hidden[:, 0] & hidden[:, -1] & ~hidden.all(axis=1)).mean() < 0.6
    assert block_tube_mask(plane, 1, (0.5, 0.9), rng)[0].tolist() == plane.tolist()


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


def recorded_blocks(tensors: dict) -> list[tuple]:
    """Name, window, count, smallest, largest and seed of each recorded sequence of block masks."""
    found = [re.fullmatch(r"masks_(\d+)x(\d+)_(\d+)_min(\d+)(?:_max(\d+))?_seed(\d+)", name) for name in tensors]
    sequences = []
    for match in filter(None, found):
        height, width, count, smallest, largest, seed = (int(part) if part else math.inf for part in match.groups())
        sequences.append((match[0], (height, width), count, smallest, largest, seed))
    return sequences


@pytest.mark.oracle
def test_bevt_s_blocks_are_reproduced_cell_by_cell(oracles: Path) -> None:
    _, tensors = oracle_entry(oracles, "bevt_masks.safetensors", "svt_bevt")
    sequences = recorded_blocks(tensors)
    assert sequences
    for name, window, count, smallest, largest, seed in sequences:
        rng = PythonRandom(seed)
        for mask in tensors[name].bool().numpy():
            assert np.array_equal(block_mask(window, count, smallest, rng, largest), mask)  # type: ignore[arg-type]


@pytest.mark.oracle
def test_bevt_s_tubes_are_reproduced_cell_by_cell(oracles: Path) -> None:
    _, tensors = oracle_entry(oracles, "bevt_masks.safetensors", "svt_bevt")
    name = next(name for name in tensors if name.startswith("tube_") and "seed" in name)
    recorded = tensors[name].bool().numpy()
    window, count, smallest = next(s[1:4] for s in recorded_blocks(tensors) if s[1] == recorded.shape[2:])
    rng = PythonRandom(int(name.rpartition("seed")[2]))
    for mask in recorded:
        plane = block_mask(window, count, smallest, rng)  # type: ignore[arg-type]
        assert np.array_equal(block_tube_mask(plane, len(mask), (0.5, 1.0), rng), mask)  # type: ignore[arg-type]


@pytest.mark.oracle
def test_bevt_s_statistics(oracles: Path) -> None:
    entry, tensors = oracle_entry(oracles, "bevt_masks.safetensors", "svt_bevt")
    stats, rng = entry["stats"], np.random.default_rng(0)
    window = tuple(tensors["heatmap_14x14"].shape)
    count, smallest = next(s[2:4] for s in recorded_blocks(tensors) if s[1] == window)
    moments = len(tensors["tube_len_hist"]) - 1
    planes = np.stack([block_mask(window, count, smallest, rng) for _ in range(1500)])
    counts = planes.sum(axis=(1, 2))
    assert counts.mean() == pytest.approx(stats["count_mean"], abs=0.15)
    assert counts.max() == stats["count_max"]
    assert counts.std() == pytest.approx(stats["count_std"], abs=0.2)
    assert (counts == count).mean() == pytest.approx(stats["p_full"], abs=0.05)
    assert np.abs(planes.mean(axis=0) - tensors["heatmap_14x14"].numpy()).max() < 0.06
    tubes = np.stack([block_tube_mask(plane, moments, (0.5, 1.0), rng) for plane in planes])
    lengths = tubes.any(axis=(2, 3)).sum(axis=1)
    recorded = tensors["tube_len_hist"].numpy()
    assert np.abs(np.bincount(lengths, minlength=moments + 1) / len(lengths) - recorded / recorded.sum()).max() < 0.04
    ratios = tubes.mean(axis=(1, 2, 3))
    assert ratios.mean() == pytest.approx(stats["tube_ratio_mean"], abs=0.01)
    assert ratios.std() == pytest.approx(stats["tube_ratio_std"], abs=0.01)
    hidden = tubes.any(axis=(2, 3))
    both_ends = hidden[:, 0] & hidden[:, -1] & ~hidden.all(axis=1)
    assert both_ends.mean() == pytest.approx(stats["wrap_fraction"], abs=0.05)
