"""Clips that are listed as present and cannot be read: counted and named wherever a number depends on them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_runs import FINETUNE, PRETRAIN, write_config
from torch import nn

from islr.config import load_config
from islr.data.manifest import Clip, Manifest
from islr.errors import UserError
from islr.evaluation.finetune import FinetuneConfig, run_finetune
from islr.models.encoder import running_statistics
from islr.models.weights import read_metadata
from islr.training.classification import ClassificationConfig, check_batch_parts
from pretrain.run import ENCODER, PICTURES, PretrainConfig, run_pretrain

QUICK = {"epochs": 1, "warmup_epochs": 0}


def _broken(corpus: Path, folder: Path, split: str, count: int) -> tuple[Path, list[str]]:
    """Copy a corpus and cut the first videos of a split; return the manifest and the ids of those clips."""
    shutil.copytree(corpus, folder)
    clips = Manifest.load(folder / "manifest.csv").select(split).clips[:count]
    _cut(folder, clips)
    return folder / "manifest.csv", [clip.clip_id for clip in clips]


def _cut(folder: Path, clips: Iterable[Clip]) -> None:
    for clip in clips:
        path = folder / clip.path
        path.write_bytes(path.read_bytes()[:200])


def _config(kind: Any, base: dict[str, Any], manifest: Path, out: Path, **changes: Any) -> Any:
    groups = {"optim": base["optim"] | QUICK} | changes
    groups |= {"health": {"looks": 0}} if base is PRETRAIN else {}
    return load_config(kind, write_config(base, out.with_suffix(".yaml"), manifest, out, **groups))


def test_pre_training_names_clips_that_it_could_not_read(
    mini_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, broken = _broken(mini_corpus, tmp_path / "corpus", "train", 4)  # all that the pictures would show
    changes = {"data": PRETRAIN["data"] | {"max_bad": 0.9}, "optim": PRETRAIN["optim"] | QUICK | {"batch_size": 6}}
    config = _config(PretrainConfig, PRETRAIN, manifest, tmp_path / "p", **changes)  # every clip is in the epoch
    run_pretrain(config)
    [stage] = json.loads(read_metadata(tmp_path / "p" / ENCODER)["pretraining"])
    whole = len(Manifest.load(manifest).select("train"))
    named = json.loads(stage["unreadable"])
    assert [text.split(" ")[0] for text in named] == broken
    assert int(stage["clips"]) == whole - len(broken)
    assert f"4 of {whole} training clips could not be read and were left out: {broken[0]} (" in caplog.text
    assert (tmp_path / "p" / PICTURES).is_file()


def test_the_record_names_unreadable_training_and_selection_clips(
    mini_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, unread = _broken(mini_corpus, tmp_path / "corpus", "val", 2)
    clip = Manifest.load(manifest).select("train").clips[1]
    _cut(tmp_path / "corpus", [clip])
    config = _config(FinetuneConfig, FINETUNE, manifest, tmp_path / "f", data=FINETUNE["data"] | {"max_bad": 0.5})
    record = run_finetune(config)[0].provenance
    whole = len(Manifest.load(manifest).select("val"))
    assert record.selection_set == f"val ({whole - 2} clips)"
    assert [text.split(" ")[0] for text in record.unreadable["select"]] == unread
    assert [text.split(" ")[0] for text in record.unreadable["train"]] == [clip.clip_id]
    assert "test" not in record.unreadable
    assert f"2 of {whole} selection clips could not be read" in caplog.text


def test_too_many_unreadable_selection_clips_stop_the_run(mini_corpus: Path, tmp_path: Path) -> None:
    manifest, broken = _broken(mini_corpus, tmp_path / "corpus", "val", 3)
    with pytest.raises(UserError, match=rf"3 of 6 selection clips could not be read, more than .*{broken[0]}"):
        run_finetune(_config(FinetuneConfig, FINETUNE, manifest, tmp_path / "f"))


def test_a_batch_part_that_shrank_to_one_clip_meets_batch_norms(mini_corpus: Path, tmp_path: Path) -> None:
    manifest, unread = _broken(mini_corpus, tmp_path / "corpus", "train", 3)
    results = run_finetune(
        _config(
            FinetuneConfig,
            FINETUNE,
            manifest,
            tmp_path / "f",
            data=FINETUNE["data"] | {"max_bad": 0.5},
            classification={"head_norm": "batch"},
            optim=FINETUNE["optim"] | QUICK | {"batch_size": 6, "accumulate": 3},  # parts of two clips
        )
    )
    assert [text.split(" ")[0] for text in results[0].provenance.unreadable["train"]] == unread


def test_one_clip_uses_running_statistics_and_leaves_them() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    before = module[1].running_mean.clone()
    with running_statistics(module, use=True):
        module(torch.ones(1, 3))
    assert torch.equal(module[1].running_mean, before)
    assert module[1].training
    module(torch.rand(4, 3))
    assert not torch.equal(module[1].running_mean, before)


def test_a_head_norm_over_single_clips_is_refused_before_the_run() -> None:
    with pytest.raises(UserError, match="two clips or more in each part of a batch"):
        check_batch_parts(ClassificationConfig(head_norm="batch"), 1)
    check_batch_parts(ClassificationConfig(head_norm="batch", repeats=2), 1)
    check_batch_parts(ClassificationConfig(), 1)
