"""A run is bound to its clips and labels: what another launch refuses, and what it says."""

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.tiny_runs import FINETUNE, PRETRAIN, write_config

from islr.config import load_config
from islr.data.audit.run_data import DATA, bind_data, describe_clips
from islr.data.manifest import Clip, Manifest
from islr.errors import Interrupted, UserError
from islr.evaluation.finetune import FinetuneConfig, run_finetune
from islr.training import engine
from pretrain.run import PretrainConfig, run_pretrain

Change = Callable[[Manifest], Manifest]


def _each(change: Callable[[Clip], Clip]) -> Change:
    return lambda manifest: manifest.replace(map(change, manifest))


def _permuted(manifest: Manifest) -> Manifest:
    return dataclasses.replace(manifest, classes=(*manifest.classes[1:], manifest.classes[0]))


def _shorter(clip: Clip) -> Clip:
    return dataclasses.replace(clip, frames=(clip.frames or 0) + 1)


CHANGES: dict[str, tuple[Change, str]] = {
    "dropped": (lambda m: m.replace(m.clips[2:]), r"train: 2 clips gone \("),
    "added": (lambda m: m.replace([*m, dataclasses.replace(m.clips[0], clip_id="more")]), r"1 clips new \(more\)"),
    "relabelled": (
        _each(lambda clip: dataclasses.replace(clip, label=(clip.label or 0) + 1)),
        r"\d+ clips with another label",
    ),
    "classes permuted": (_permuted, "class 0 is"),
    "class dropped": (lambda m: dataclasses.replace(m, classes=m.classes[:-1]), "5 classes instead of 6"),
    "other files": (_each(_shorter), r"\d+ clips with another file or range"),
    "other corpus": (lambda m: dataclasses.replace(m, name="other"), "corpus other instead of"),
    "reordered": (lambda m: m.replace(reversed(m.clips)), "the same clips in another order"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_begun_run_says_what_changed(name: str, mini_corpus: Path, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    uses = {"train": describe_clips(manifest, labels=True)}
    other = {"train": describe_clips(change(manifest), labels=True)}
    bind_data(tmp_path, other, begun=False)
    first = bind_data(tmp_path, uses, begun=False)  # nothing was trained yet
    assert bind_data(tmp_path, uses, begun=True) == first
    with pytest.raises(UserError, match=message) as refusal:
        bind_data(tmp_path, other, begun=True)
    assert "begun with other data" in str(refusal.value)


def test_labels_do_not_bind_a_run_that_uses_none(mini_corpus: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    bound = bind_data(tmp_path, {"train": describe_clips(manifest, labels=False)}, begun=False)
    assert bind_data(tmp_path, {"train": describe_clips(_permuted(manifest), labels=False)}, begun=True) == bound


def test_a_video_of_other_length_in_bytes_is_other_data(mini_corpus: Path, tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(mini_corpus, tmp_path / "corpus"))
    manifest = Manifest.load(corpus / "manifest.csv")
    before = describe_clips(manifest, labels=True)
    path = manifest.path_of(manifest.clips[0])
    path.write_bytes(path.read_bytes() + b"\0")
    after = describe_clips(manifest, labels=True)
    assert [clip for clip in before.clips if before.clips[clip] != after.clips[clip]] == [manifest.clips[0].clip_id]


@pytest.fixture
def stopped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run gets a SIGTERM in its first step."""
    plain = engine.seed_step

    def interrupting(seed: int, step: int, rank: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        plain(seed, step, rank)

    monkeypatch.setattr(engine, "seed_step", interrupting)


@pytest.mark.usefixtures("stopped_at_once")
def test_an_interrupted_run_is_not_resumed_on_other_clips(mini_corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    manifest.save(path)
    config = load_config(
        PretrainConfig, write_config(PRETRAIN, tmp_path / "p.yaml", path, tmp_path / "p", health={"looks": 0})
    )
    with pytest.raises(Interrupted):
        run_pretrain(config)
    train = manifest.select("train").clips
    manifest.replace(clip for clip in manifest if clip != train[0]).save(path)
    with pytest.raises(UserError, match=rf"train: 1 clips gone \({train[0].clip_id}\)"):
        run_pretrain(config)
    (tmp_path / "p" / DATA).unlink()
    with pytest.raises(UserError, match=r"the checkpoint in .* is of other clips or labels"):
        run_pretrain(config)


@pytest.mark.usefixtures("stopped_at_once")
def test_fine_tuning_is_bound_to_its_test_clips_and_classes(mini_corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    manifest.save(path)
    config = load_config(FinetuneConfig, write_config(FINETUNE, tmp_path / "f.yaml", path, tmp_path / "f"))
    with pytest.raises(Interrupted):
        run_finetune(config)
    gone = manifest.select("test").clips[0]
    manifest.replace(clip for clip in manifest if clip != gone).save(path)
    with pytest.raises(UserError, match=rf"test: 1 clips gone \({gone.clip_id}\)"):
        run_finetune(config)
    last = len(manifest.classes) - 1
    fewer = dataclasses.replace(manifest, classes=manifest.classes[:-1])
    fewer.replace(clip for clip in manifest if clip.label != last).save(path)
    with pytest.raises(UserError, match="5 classes instead of 6"):
        run_finetune(config)
