"""Running means of targets, and the recipes that are held against them."""

from pathlib import Path

import pytest
import torch
from support.recipe_runs import smallest_config

from islr.checks.overfit import one_batch
from islr.training.distributed.world import World
from pretrain.check import pretrain_subject
from pretrain.targets.running_mean import MOMENTUM, RunningMean


def test_each_place_has_the_weighted_mean_of_its_own_targets() -> None:
    mean = RunningMean(3, 2)
    first, second = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[5.0, 1.0]])
    mean.note(torch.tensor([0, 0]), first)
    mean.note(torch.tensor([0]), second)
    expected = (MOMENTUM * first.sum(dim=0) + second[0]) / (2 * MOMENTUM + 1)
    assert torch.allclose(mean(torch.tensor([0, 2])), torch.stack([expected, torch.zeros(2)]))


@pytest.mark.parametrize("name", ["maskfeat", "videomae", "supervised"])
def test_a_mean_is_of_the_steps_before_and_moves_in_training_only(name: str, mini_corpus: Path, tmp_path: Path) -> None:
    subject = pretrain_subject(smallest_config(name, mini_corpus / "manifest.csv", tmp_path / "run"))
    recipe, batch = subject.build(False), one_batch(subject, 3, World("cpu"))
    key = "majority_accuracy" if name == "supervised" else "place_mean"
    with torch.no_grad():
        first, second = recipe(batch), recipe(batch)
        later = [recipe.eval()(batch)[key] for _ in range(2)]
    if name == "supervised":
        assert first[key] <= second[key] == torch.bincount(batch["label"]).max() / 3
    else:
        assert first[key] == pytest.approx(first["zero_prediction"].item())
        assert second[key] < first[key]
    assert later[0] == later[1]
