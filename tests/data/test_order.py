"""The order of clips: corpora of very different sizes are mixed as asked, and nothing is seen twice in a pass."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from islr.config import load_config
from islr.data.loading.batches import TrainBatches
from islr.data.loading.config import DataConfig
from islr.data.loading.mixing import load_manifests
from islr.data.loading.order import Mix, epoch_order, quotas
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.errors import UserError
from pretrain.run import PretrainConfig, run_pretrain

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "smoke"
SIZES = (400, 4)


def mix(balance: float, seed: int = 1) -> Mix:
    return Mix([0] * SIZES[0] + [1] * SIZES[1], balance, seed)


@pytest.mark.parametrize(
    ("sizes", "balance", "expected"),
    [
        ([400, 4], 0.0, [400, 4]),
        ([400, 4], 1.0, [202, 202]),
        ([10000, 100], 0.5, [9182, 918]),
        ([5, 5, 5], 0.3, [5, 5, 5]),
        ([3, 4], 1.0, [4, 3]),
        ([7], 1.0, [7]),
    ],
)
def test_quotas_fill_an_epoch(sizes: list[int], balance: float, expected: list[int]) -> None:
    assert quotas(sizes, balance) == expected


def test_without_balance_an_epoch_is_every_clip_once_in_the_order_of_one_corpus() -> None:
    keys = mix(0.0).keys(3)
    assert (keys[:, 0] == 3).all()
    assert np.array_equal(keys[:, 1], epoch_order(sum(SIZES), 1, 3))


def test_corpora_of_unlike_sizes_are_mixed_evenly() -> None:
    keys = mix(1.0).keys(0)
    small = keys[:, 1] >= SIZES[0]
    assert small.sum() == 202
    assert max(Counter(keys[small, 1]).values()) - min(Counter(keys[small, 1]).values()) <= 1
    assert len(np.unique(keys, axis=0)) == len(keys)  # no view of a clip is drawn twice
    halves = small.reshape(4, -1).mean(axis=1)  # mixed inside the epoch, not one corpus after the other
    assert halves == pytest.approx([0.5] * 4, abs=0.15)


def test_epochs_go_on_where_the_last_one_stopped() -> None:
    mixed = mix(1.0)
    seen = np.concatenate([mixed.keys(epoch) for epoch in range(6)])
    assert len(np.unique(seen, axis=0)) == len(seen)
    large = Counter(seen[seen[:, 1] < SIZES[0], 1])
    assert len(large) == SIZES[0]
    assert max(large.values()) - min(large.values()) <= 1
    again = mix(1.0)
    assert np.array_equal(again.keys(5), mixed.keys(5))  # whatever was asked before
    assert not np.array_equal(mix(1.0, seed=2).keys(5), mixed.keys(5))


@pytest.fixture
def corpora(mini_corpus: Path) -> list[str]:
    """Two manifests of one folder: all signs of the mini corpus, and two of their clips under another name."""
    whole = Manifest.load(mini_corpus / "manifest.csv")
    few = whole.replace(list(whole.select("train"))[:2])
    Manifest("few", few.clips, few.root, few.classes, few.sources).save(mini_corpus / "few.csv")
    return [str(mini_corpus / "manifest.csv"), str(mini_corpus / "few.csv")]


def batches_of(corpora: list[str], **options: Any) -> TrainBatches:
    config = DataConfig(manifest=tuple(corpora), balance=1.0)
    manifest = load_manifests(corpora).select("train")
    return TrainBatches(ClipStore(manifest, config), lambda *_: {}, batch_size=4, seed=0, **options)


def test_batches_are_balanced_and_cut_alike_for_any_number_of_processes(corpora: list[str]) -> None:
    whole = batches_of(corpora)
    size = sum(len(part) for part in whole.order.parts)
    assert whole.corpus_shares().endswith(f", {size // 2} clips of few (2)")
    assert whole.steps_per_epoch == size // 4
    for step in range(2 * whole.steps_per_epoch):
        ranks = [key for rank in range(2) for key in batches_of(corpora, rank=rank, world=2).rows(step, 0)]
        assert sorted(ranks) == sorted(whole.rows(step, 0))


def test_impossible_mixtures_are_refused(corpora: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="balance acts on several manifests"):
        DataConfig(manifest=(corpora[0],), balance=0.5)
    whole = Manifest.load(corpora[0])
    Manifest("a/b", whole.clips, whole.root, whole.classes, whole.sources).save(tmp_path / "slash.csv")
    with pytest.raises(UserError, match="need names without '/'"):
        load_manifests([corpora[0], str(tmp_path / "slash.csv")])


def test_the_shipped_example_of_a_mixture_runs(
    corpora: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert load_config(PretrainConfig, SMOKE / "mixed.yaml").data.balance == 0.5
    small = ["encoder.arguments={frames: 4, size: 32}", "optim.epochs=1", "optim.warmup_epochs=0", "optim.batch_size=4"]
    paths = [f"data.manifest=[{', '.join(corpora)}]", f"run.out={tmp_path / 'run'}", "health.looks=0"]
    run_pretrain(load_config(PretrainConfig, SMOKE / "mixed.yaml", small + paths))
    assert "an epoch holds" in caplog.text
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_rows_of_several_windows_occur_as_often_as_said_with_passes_of_their_own() -> None:
    order = Mix([0, 0, 1], 0.0, seed=3, times=[1, 3, 2])
    seen = [order.keys(epoch) for epoch in range(3)]
    for keys in seen:
        assert sorted(keys[:, 1].tolist()) == [0, 1, 1, 1, 2, 2]
    pairs = [tuple(pair) for keys in seen for pair in keys.tolist()]
    assert len(set(pairs)) == len(pairs)  # so every window of a clip is drawn anew
    once = Mix([0, 0, 1], 0.0, seed=3)
    assert once.keys(1).tolist() == Mix([0, 0, 1], 0.0, seed=3, times=[1, 1, 1]).keys(1).tolist()
