"""The classification loss: mixed clips, repeated clips, balanced classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from islr.data.loading.batches import TrainBatches
from islr.data.loading.config import DataConfig
from islr.data.loading.order import balanced_order
from islr.data.loading.store import ClipStore
from islr.data.manifest import Manifest
from islr.data.views.poses import PoseAugmentConfig
from islr.data.views.views import AugmentConfig, train_view
from islr.errors import UserError
from islr.models import InputSpec, create_model, to_input
from islr.training.classification import Classification, ClassificationConfig, effective_weights

CLASSES = 5


def _task(**options: Any) -> Classification:
    encoder = create_model("r3d_tiny", frames=4, size=16)
    return Classification(encoder, CLASSES, ClassificationConfig(**options))


def _batch(clips: int = 4, frames: int = 4, size: int = 16) -> dict[str, Tensor]:
    """Every clip has one value of its own in all pixels."""
    values = 20 + 50 * torch.arange(clips, dtype=torch.uint8)
    clip = values.view(-1, 1, 1, 1, 1).expand(clips, 3, frames, size, size).contiguous()
    return {"clip": clip, "label": torch.arange(clips) % CLASSES}


def _mixed(task: Classification, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return task._mixed(batch["clip"].float(), batch["label"])


class TestMixing:
    def test_mixup_takes_one_share_of_each_clip_s_neighbour(self) -> None:
        batch = _batch()
        torch.manual_seed(0)
        clip, target = _mixed(_task(mixup=0.8).train(), batch)
        share = float(target[0, 0])
        assert 0 < share < 1
        own = batch["clip"].float()
        assert torch.allclose(clip, own * share + own.roll(1, 0) * (1 - share), atol=1e-3)
        expected = torch.eye(CLASSES)[batch["label"]]
        assert torch.allclose(target, expected * share + expected.roll(1, 0) * (1 - share), atol=1e-6)

    def test_cutmix_cuts_one_box_through_all_frames(self) -> None:
        batch = _batch()
        for seed in range(8):
            torch.manual_seed(seed)
            clip, target = _mixed(_task(cutmix=1.0).train(), batch)
            foreign = clip != batch["clip"].float()
            assert (foreign == foreign[:1, :1, :1]).all()
            box = foreign[0, 0, 0]
            rows, columns = box.any(dim=1).sum(), box.any(dim=0).sum()
            assert rows * columns == box.sum()
            assert torch.allclose(clip[foreign], batch["clip"].float().roll(1, 0)[foreign])
            assert float(target[0, 0]) == pytest.approx(1 - float(box.float().mean()), abs=1e-6)

    def test_loss_is_timm_s_on_the_mixed_batch(self) -> None:
        task = _task(mixup=0.8, label_smoothing=0.1).train()
        batch = _batch()
        torch.manual_seed(3)
        loss = task(batch)["loss"]
        torch.manual_seed(3)
        clip, target = task._mixed(to_input(batch["clip"], task.encoder.input_spec), batch["label"])
        share = float(target[0, 0])
        own, other = (mixup_target(label, CLASSES, 1.0, 0.1) for label in (batch["label"], batch["label"].roll(1)))
        pairs = share * own + (1 - share) * other
        assert loss.item() == pytest.approx(SoftTargetCrossEntropy()(task.classifier(clip), pairs).item(), abs=1e-6)

    def test_evaluation_never_mixes(self) -> None:
        task = _task(mixup=0.8, cutmix=1.0).eval()
        batch = _batch()
        clip, target = _mixed(task, batch)
        assert torch.equal(clip, batch["clip"].float())
        assert torch.equal(target, batch["label"])

    @pytest.mark.parametrize(("prob", "switch"), [(1.0, 0.5), (0.4, 0.25), (1.0, 0.0), (1.0, 1.0)])
    def test_as_many_batches_are_mixed_and_cut_as_asked(self, prob: float, switch: float) -> None:
        task = _task(mixup=1.0, cutmix=1.0, mix_prob=prob, switch_prob=switch).train()
        batch = _batch(clips=2, frames=1, size=8)
        torch.manual_seed(0)
        mixed = cut = 0
        for _ in range(400):
            clip, target = _mixed(task, batch)
            if target.ndim == 2:
                mixed += 1
                cut += set(clip.unique().tolist()) <= {20.0, 70.0}
        assert mixed / 400 == pytest.approx(prob, abs=0.08)
        assert cut / mixed == pytest.approx(switch, abs=0.08)

    def test_poses_are_not_mixed(self) -> None:
        encoder = create_model("stgcn_tiny")
        for option in ("mixup", "cutmix"):
            with pytest.raises(UserError, match="for video"):
                Classification(encoder, CLASSES, ClassificationConfig(**{option: 0.5}))


class TestRepeats:
    def test_a_batch_of_repeats_is_a_batch_of_its_clips(self) -> None:
        plain, repeated = _task(), _task(repeats=2)
        repeated.load_state_dict(plain.state_dict())
        first, second = _batch(), _batch()
        second["clip"] = second["clip"] + 3
        both = {"clip": torch.stack([first["clip"], second["clip"]], dim=1), "label": first["label"]}
        one = {"clip": torch.cat([first["clip"], second["clip"]]), "label": first["label"].repeat(2)}
        for key, value in plain(one).items():
            assert repeated(both)[key].item() == pytest.approx(value.item(), abs=1e-6)

    def test_no_clip_is_mixed_with_itself(self) -> None:
        task = _task(repeats=3, mixup=0.8).train()
        batch = _batch()
        batch["clip"] = batch["clip"][:, None].expand(-1, 3, *batch["clip"].shape[1:])
        targets: list[Tensor] = []
        plain = task._mixed

        def noted(clip: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            clip, target = plain(clip, label)
            targets.append(target)
            return clip, target

        task._mixed = noted  # type: ignore[method-assign]
        task(batch)
        assert ((targets[0] > 0).sum(dim=1) == 2).all()


class TestClassBalance:
    def test_weights_are_those_of_the_effective_number(self) -> None:
        counts = [1, 10, 1000, 0]
        weights = effective_weights(counts, 0.99).double()
        effective = [sum(0.99**k for k in range(n)) for n in counts[:3]]  # 1 + b + b^2 + ...
        assert weights[0] / weights[1] == pytest.approx(effective[1] / effective[0], rel=1e-5)
        assert weights[1] / weights[2] == pytest.approx(effective[2] / effective[1], rel=1e-5)
        assert weights[3] == 0
        assert (weights * torch.tensor(counts)).sum() / sum(counts) == pytest.approx(1, rel=1e-5)
        assert effective_weights(counts, 0.0)[:3].tolist() == pytest.approx([1, 1, 1])

    def test_loss_of_a_clip_counts_by_its_class(self) -> None:
        weights = torch.tensor([3.0, 0.5, 1.0, 0.0, 1.0])
        torch.manual_seed(0)
        plain = _task(label_smoothing=0.1)
        weighted = Classification(plain.encoder, CLASSES, plain.config, weights)
        weighted.classifier = plain.classifier
        nn.init.normal_(plain.classifier.head.weight)
        batch = _batch()
        plain.eval(), weighted.eval()
        alone = torch.stack([plain({key: value[i : i + 1] for key, value in batch.items()})["loss"] for i in range(4)])
        expected = (alone * weights[batch["label"]]).mean()
        assert weighted(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_mixed_clips_have_mixed_weights(self) -> None:
        weights = torch.tensor([4.0, 0.0, 4.0, 0.0, 1.0])
        encoder = create_model("r3d_tiny", frames=4, size=16)
        task = Classification(encoder, CLASSES, ClassificationConfig(mixup=0.8, label_smoothing=0), weights).eval()
        task.classifier.head.weight.data.zero_()  # every clip's loss is log K
        task._mixed = lambda clip, label: (clip, torch.tensor([[0.25, 0.75, 0, 0, 0]] * 2))  # type: ignore[method-assign]
        assert task(_batch(2))["loss"].item() == pytest.approx(float(np.log(CLASSES)) * 4 * 0.25, rel=1e-5)

    def test_balanced_epochs_draw_all_classes_alike(self) -> None:
        labels = np.repeat([0, 1, 2, 7], [1, 3, 16, 5])
        seen: set[int] = set()
        for epoch in range(12):
            rows, turns = balanced_order(labels, 3, epoch)
            drawn = np.bincount(labels[rows], minlength=8)
            assert drawn.sum() == len(labels)
            assert drawn[[0, 1, 2, 7]].max() - drawn[[0, 1, 2, 7]].min() <= 1
            assert len({*zip(rows, turns, strict=True)}) == len(rows)
            for row in set(rows):  # turns count up, and no clip is drawn again before its class is through
                assert turns[rows == row].tolist() == list(range((rows == row).sum()))
            for label in (0, 1, 7):
                uses = np.bincount(rows[labels[rows] == label], minlength=25)[labels == label]
                assert uses.max() - uses.min() <= 1
            seen |= set(rows.tolist())
        assert seen == set(range(len(labels)))
        assert not np.array_equal(balanced_order(labels, 3, 0)[0], balanced_order(labels, 3, 1)[0])
        assert not np.array_equal(balanced_order(labels, 3, 0)[0], balanced_order(labels, 4, 0)[0])

    def test_balanced_batches_depend_on_the_step_alone_and_augment_every_turn(self, mini_corpus: Path) -> None:
        path = str(mini_corpus / "manifest.csv")
        train = Manifest.load(path).select("train")
        rare = train.clips[0].label
        kept = [clip for clip in train if clip.label != rare] + [train.clips[0]]
        spec = InputSpec(2, 16, (0.45,) * 3, (0.225,) * 3, "video")
        view = train_view(spec, AugmentConfig(), PoseAugmentConfig())

        def batches(**options: Any) -> TrainBatches:
            store = ClipStore(train.replace(kept), DataConfig(manifest=(path,)))
            return TrainBatches(store, view, batch_size=8, seed=0, balanced=True, **options)

        whole = batches()
        shares = [batches(rank=rank, world=2) for rank in range(2)]
        for step in (3, 0, 2):
            assert [key for share in shares for key in share.rows(step, 0)] == whole.rows(step, 0)
        last = len(kept) - 1
        keys = [key for step in range(whole.steps_per_epoch) for key in whole.rows(step, 0)]
        turns = [key for key in keys if key[1] == last]
        assert len(turns) >= 2
        assert len(set(turns)) == len(turns)
        clips = [parts[0] for parts in whole.iterate(0, whole.steps_per_epoch)]
        drawn = [clip for part in clips for clip, row in zip(part["clip"], part["index"], strict=True) if row == last]
        assert not torch.equal(drawn[0], drawn[1])
