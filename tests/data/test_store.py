"""The data module: order, per-sample randomness, failures that are counted, every clip scored once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from islr.data.loading.batches import TrainBatches, eval_batches, sample_rng
from islr.data.loading.config import DataConfig
from islr.data.loading.mixing import join_manifests, load_manifests
from islr.data.loading.order import epoch_order
from islr.data.loading.store import ClipStore
from islr.data.manifest import Clip, Manifest
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.source import ClipSource
from islr.data.views.views import AugmentConfig, eval_view, multi_view, train_view
from islr.errors import UserError
from islr.models import InputSpec

SPEC = InputSpec(4, 32, (0.45,) * 3, (0.225,) * 3, "video")
POSE = InputSpec(8, 0, (), (), "pose")
TRAIN_VIEW = train_view(SPEC, AugmentConfig(colour=0.2), PoseAugmentConfig())


def _store(corpus: Path, **options: Any) -> ClipStore:
    path = str(corpus / "manifest.csv")
    return ClipStore(Manifest.load(path).select("train"), DataConfig(manifest=(path,), **options))


def _steps(store: ClipStore, first: int, last: int, **options: Any) -> list[dict[str, Any]]:
    options = {"batch_size": 4, "seed": 3} | options
    return [part for parts in TrainBatches(store, TRAIN_VIEW, **options).iterate(first, last) for part in parts]


def test_sample_streams_differ_in_every_argument() -> None:
    draws = {
        tuple(sample_rng(*key).integers(0, 2**62, 3))
        for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 2**32, 5, 0)]
    }
    assert len(draws) == 6
    assert tuple(sample_rng(7, 1, 2).integers(0, 9, 9)) == tuple(sample_rng(7, 1, 2).integers(0, 9, 9))


def test_orders_are_permutations_that_differ_by_epoch() -> None:
    orders = [epoch_order(50, 1, epoch) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert not (orders[0] == orders[1]).all()
    assert not (orders[1] == orders[2]).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_or_start(mini_corpus: Path, workers: int) -> None:
    reference = _steps(_store(mini_corpus), 0, 7)
    other = _steps(_store(mini_corpus, workers=workers), 3, 7)
    for expected, found in zip(reference[3:], other, strict=True):
        assert torch.equal(expected["index"], found["index"])
        assert torch.equal(expected["clip"], found["clip"])


def test_memory_cache_changes_nothing(mini_corpus: Path) -> None:
    cached = _store(mini_corpus, cache="memory", short_side=48)
    cached.fill_cache()
    for expected, found in zip(_steps(_store(mini_corpus, short_side=48), 0, 2), _steps(cached, 0, 2), strict=True):
        assert torch.equal(expected["clip"], found["clip"])


def test_world_and_accumulation_cut_the_same_step(mini_corpus: Path) -> None:
    store = _store(mini_corpus)
    whole = TrainBatches(store, TRAIN_VIEW, batch_size=8, seed=0)
    parts = [
        TrainBatches(store, TRAIN_VIEW, batch_size=8, seed=0, accumulate=2, rank=rank, world=2) for rank in range(2)
    ]
    for step in range(4):
        cut = [row for rank in parts for part in range(2) for row in rank.rows(step, part)]
        assert sorted(cut) == sorted(whole.rows(step, 0))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_clip_once(mini_corpus: Path, world: int) -> None:
    store = _store(mini_corpus)
    rows = [
        int(row)
        for rank in range(world)
        for batch in eval_batches(store, eval_view(SPEC), batch_size=5, rank=rank, world=world)
        for row in batch["index"]
    ]
    assert sorted(rows) == list(range(len(store)))


def test_impossible_batches_are_refused(mini_corpus: Path) -> None:
    store = _store(mini_corpus)
    with pytest.raises(UserError, match="batch_size is 999 and the training clips are"):
        TrainBatches(store, TRAIN_VIEW, batch_size=999, seed=0)
    with pytest.raises(UserError, match="not a multiple of 3 processes"):
        TrainBatches(store, TRAIN_VIEW, batch_size=4, seed=0, world=3)


def test_unreadable_clip_is_named_and_never_replaced(mini_corpus: Path, tmp_path: Path) -> None:
    store = _store(mini_corpus)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video at all")
    clips = list(store.manifest.clips)
    row = {name: getattr(clips[2], name) for name in clips[2].__slots__} | {"path": "bad.mp4"}
    clips = [type(clips[2])(**row)]
    broken = ClipStore(Manifest("broken", tuple(clips), tmp_path, store.manifest.classes), store.config)
    batch = next(eval_batches(broken, eval_view(SPEC), batch_size=4))
    assert len(batch["index"]) == 0
    assert batch["failed"][0][0] == 0
    assert "bad.mp4" in batch["failed"][0][1]


def test_views_have_the_promised_shapes(mini_corpus: Path) -> None:
    source = _store(mini_corpus).source(0)
    rng = np.random.default_rng(0)
    assert eval_view(SPEC)(source, rng)["clip"].shape == SPEC.clip_shape
    assert eval_view(SPEC)(source, rng)["clip"].dtype == torch.uint8
    assert multi_view(SPEC, 2, 3)(source, rng)["clip"].shape == (6, *SPEC.clip_shape)
    pose = eval_view(POSE)(source, rng)["clip"]
    assert pose.shape == POSE.clip_shape
    assert pose.dtype == torch.float32
    assert train_view(POSE, AugmentConfig(), PoseAugmentConfig())(source, rng)["clip"].shape == POSE.clip_shape


def test_range_of_a_clip_is_respected(mini_corpus: Path) -> None:
    store = _store(mini_corpus)
    clip = store.manifest.clips[0]
    whole: ClipSource = store.source(0)
    assert clip.fps is not None
    row = {name: getattr(clip, name) for name in clip.__slots__}
    row |= {"start": 5 / clip.fps - 1e-3, "end": 9 / clip.fps - 1e-3}
    part = ClipStore(store.manifest.replace([type(clip)(**row)]), store.config).source(0)
    assert part.length == 4
    assert np.array_equal(part.read(np.arange(4)), whole.read(np.arange(5, 9)))
    assert len(part.pose().keypoints) == 4


def test_mixed_manifests_share_nothing_they_should_not(mini_corpus: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    path = str(mini_corpus / "manifest.csv")
    with pytest.raises(UserError, match="different names"):
        load_manifests([path, path])
    other = Manifest("other", manifest.clips, manifest.root, tuple(reversed(manifest.classes)))
    other.save(tmp_path / "manifest.csv")
    mixed = load_manifests([path, str(tmp_path / "manifest.csv")])
    assert len(mixed) == 2 * len(manifest)
    assert {clip.label for clip in mixed} == {None}
    assert all(mixed.path_of(clip).is_file() for clip in mixed)


def test_mixing_poses_of_several_programs_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = Clip("a", "a.mp4")
    parts = [Manifest(name, (clip,), tmp_path, notes={"poses_made_by": {name: 1}}) for name in ("one", "two")]
    assert join_manifests(parts).notes["poses_made_by"] == {"one": 1, "two": 1}
    assert "the poses of one and two were made by several programs: one (1 clips), two (1 clips)" in caplog.text
