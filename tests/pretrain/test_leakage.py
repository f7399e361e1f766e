"""What pre-training may see: no clip that a downstream corpus chooses or scores models with, unless declared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_runs import FINETUNE, PRETRAIN, write_config

from islr.config import load_config
from islr.data.audit.clip_digests import clips_among, digest_clips, digests_text
from islr.data.manifest import Manifest
from islr.errors import UserError
from islr.evaluation.finetune import FinetuneConfig, check_test_unseen, run_finetune
from islr.models.weights import exposure_in, read_metadata
from islr.synth import SynthOptions, write_corpus
from pretrain.leakage import Exposure
from pretrain.run import ENCODER, PretrainConfig, clips_to_see, exposure_of, run_pretrain

QUICK = {"epochs": 1, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def relabelled(mini_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files as another corpus: other name and ids, everything unlabelled and in train."""
    folder = tmp_path_factory.mktemp("relabelled")
    shutil.copytree(mini_corpus / "videos", folder / "videos")
    shutil.copytree(mini_corpus / "poses", folder / "poses")
    source = Manifest.load(mini_corpus / "manifest.csv")
    clips = [replace(c, clip_id=f"x{c.clip_id}", label=None, split="train") for c in source]
    replace(source, name="other", clips=tuple(clips), classes=(), root=folder).save(folder / "manifest.csv")
    return folder / "manifest.csv"


def visible_clips(config: PretrainConfig) -> Manifest:
    return clips_to_see(config, exposure_of(config))


def test_splits_of_the_same_corpus(mini_corpus: Path) -> None:
    manifest = str(mini_corpus / "manifest.csv")
    Exposure.load([manifest], ["train", "none"], [manifest]).check()
    count = len(Manifest.load(manifest).select("test"))
    with pytest.raises(UserError, match=rf"^{count} val or test clips of .* declare it with transductive=true"):
        Exposure.load([manifest], ["train", "test"], [manifest]).check()


def test_the_same_pictures_under_another_name(mini_corpus: Path, relabelled: Path) -> None:
    manifest = Manifest.load(mini_corpus / "manifest.csv")
    judged = len(manifest.select("val")) + len(manifest.select("test"))
    with pytest.raises(UserError, match=rf"^{judged} val or test clips of .* are among the clips of other"):
        Exposure.load([str(relabelled)], ["train"], [str(mini_corpus / "manifest.csv")]).check()


def test_shared_clips_can_be_left_out(mini_corpus: Path, relabelled: Path, tmp_path: Path) -> None:
    manifest = str(mini_corpus / "manifest.csv")
    judged = sum(clip.split in ("val", "test") for clip in Manifest.load(manifest))
    for corpora in ([str(relabelled)], [manifest, str(relabelled)]):
        path = write_config(PRETRAIN, tmp_path / "p.yaml", mini_corpus / "manifest.csv", tmp_path / "run")
        options = [f"data.manifest={json.dumps(corpora)}", f"downstream=[{manifest}]"]
        with pytest.raises(UserError, match="shared_with_downstream=drop"):
            visible_clips(load_config(PretrainConfig, path, options))
        kept = visible_clips(load_config(PretrainConfig, path, [*options, "shared_with_downstream=drop"]))
        whole = sum(len(Manifest.load(corpus).select("train")) for corpus in corpora)
        assert len(kept.select()) == whole - judged
        assert len(kept.select())


def test_what_was_left_out_is_recorded(mini_corpus: Path, relabelled: Path, tmp_path: Path) -> None:
    manifest = mini_corpus / "manifest.csv"
    path = write_config(
        PRETRAIN, tmp_path / "p.yaml", relabelled, tmp_path / "run", optim={"epochs": 1, "warmup_epochs": 0}
    )
    options = [f"downstream=[{manifest}]", "shared_with_downstream=drop", "health.looks=0"]
    run_pretrain(load_config(PretrainConfig, path, options))
    [stage] = json.loads(read_metadata(tmp_path / "run" / ENCODER)["pretraining"])
    assert int(stage["updates"]) > 0
    judged = sum(clip.split in ("val", "test") for clip in Manifest.load(manifest))
    assert stage["left_out"] == str(judged)
    assert int(stage["clips"]) == len(Manifest.load(relabelled).select()) - judged


def test_equal_ids_of_unlike_corpora_are_a_coincidence(mini_corpus: Path, tmp_path: Path) -> None:
    options = SynthOptions(signs=6, signers=5, reps=1, size=64, val_signers=1, test_signers=1, seed=1, name="unlike")
    write_corpus(tmp_path, options)
    unlike, target = Manifest.load(tmp_path / "manifest.csv"), Manifest.load(mini_corpus / "manifest.csv")
    ids = dict(zip((c.clip_id for c in unlike), (c.clip_id for c in target), strict=True))
    unlike.replace(replace(clip, clip_id=ids[clip.clip_id]) for clip in unlike).save(tmp_path / "manifest.csv")
    seen, judge = str(tmp_path / "manifest.csv"), str(mini_corpus / "manifest.csv")
    Exposure.load([seen], ["train", "val", "test"], [judge]).check()
    replace(Manifest.load(seen), name=target.name).save(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match=r"^12 val or test clips of"):  # of the same corpus, they are the same clips
        Exposure.load([seen], ["train", "val", "test"], [judge]).check()


def test_a_declared_transductive_run_says_so(mini_corpus: Path, relabelled: Path, tmp_path: Path) -> None:
    target = mini_corpus / "manifest.csv"
    changes = {"downstream": [str(target)], "optim": {"epochs": 1, "warmup_epochs": 0}}
    path = write_config(PRETRAIN, tmp_path / "p.yaml", relabelled, tmp_path / "run", **changes)
    with pytest.raises(UserError, match="declare it with transductive=true"):
        visible_clips(load_config(PretrainConfig, path))
    with pytest.raises(UserError, match="recipe supervised learns labels"):
        visible_clips(load_config(PretrainConfig, path, ["transductive=true", "recipe={name: supervised}"]))
    run_pretrain(load_config(PretrainConfig, path, ["transductive=true"]))
    stage = json.loads(read_metadata(tmp_path / "run" / ENCODER)["pretraining"])[0]
    assert stage["transductive"] == "declared"
    [seen] = exposure_in(read_metadata(tmp_path / "run" / ENCODER), "run")
    assert (seen.manifest, seen.transductive) == ("other", True)
    assert clips_among(seen.clips, Manifest.load(target)) == [clip.clip_id for clip in Manifest.load(target)]


def test_fine_tuning_refuses_an_encoder_that_saw_its_test_set(mini_corpus: Path, tmp_path: Path) -> None:
    target = mini_corpus / "manifest.csv"
    changes = {"splits": ["train", "test"], "optim": QUICK, "health": {"looks": 0}}
    for declared in ("false", "true"):
        out = tmp_path / declared
        path = write_config(PRETRAIN, tmp_path / f"{declared}.yaml", target, out, **changes)
        run_pretrain(load_config(PretrainConfig, path, [f"transductive={declared}"]))
    check_test_unseen(str(tmp_path / "true" / ENCODER), Manifest.load(target))
    path = write_config(FINETUNE, tmp_path / "f.yaml", target, tmp_path / "f")
    weights = f"encoder.weights={tmp_path / 'false' / ENCODER}"
    with pytest.raises(UserError, match=r"was pre-trained \(maskfeat on .*\) on 6 of the 6 test clips of"):
        run_finetune(load_config(FinetuneConfig, path, [weights]))
    # A second stage, on clips that nobody judges, inherits what the first one saw.
    train = {"encoder": PRETRAIN["encoder"] | {"weights": str(tmp_path / "false" / ENCODER)}}
    train |= {"optim": QUICK, "health": {"looks": 0}}
    path = write_config(PRETRAIN, tmp_path / "second.yaml", target, tmp_path / "second", **train)
    run_pretrain(load_config(PretrainConfig, path))
    with pytest.raises(UserError, match="on 6 of the 6 test clips of"):
        check_test_unseen(str(tmp_path / "second" / ENCODER), Manifest.load(target))


def test_test_clips_are_recognised_in_a_larger_corpus(mini_corpus: Path, relabelled: Path, tmp_path: Path) -> None:
    target = Manifest.load(mini_corpus / "manifest.csv")
    test = target.select("test")
    one = test.replace(test.clips[:1])
    for corpus in (target, Manifest.load(relabelled)):  # by id, and by the bytes of other names
        digests = digests_text(digest_clips([corpus], part, 3) for part in range(3))
        assert digests == digests_text([digest_clips([corpus])])
        assert clips_among(digests, test) == [clip.clip_id for clip in test]
        assert clips_among(digests, one) == [one.clips[0].clip_id]
    other = Manifest.load(relabelled)
    unlike = other.replace(clip for clip in other if clip.clip_id[1:] not in {c.clip_id for c in test})
    assert not clips_among(digests_text([digest_clips([unlike])]), test)


def test_time_ranges_of_one_file_are_other_clips(mini_corpus: Path) -> None:
    target = Manifest.load(mini_corpus / "manifest.csv")
    first = replace(target.clips[0], start=0.0, end=0.5)
    later = target.replace([replace(first, clip_id="later", start=0.5, end=1.0)])
    overlapping = target.replace([replace(first, clip_id="overlapping", start=0.4, end=1.0)])
    digests = digests_text([digest_clips([target.replace([first])])])
    assert not clips_among(digests, later)
    assert clips_among(digests, overlapping) == ["overlapping"]
