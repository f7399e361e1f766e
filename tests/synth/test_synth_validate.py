"""The corpus's own check: features that are in the poses are read, features that are not score chance."""

from pathlib import Path

import numpy as np
import pytest
from support.undrawn import undrawn

from islr.data.manifest import Manifest
from islr.synth import SynthOptions, write_corpus
from islr.synth.kinds.isolated import LEXICON
from islr.synth.lexicon import read_lexicon
from islr.synth.validate import NEAREST, main, neighbour_accuracy, pose_features, read_features

# Few clips of many signs, which is what a sign classifier is about.
pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    options = SynthOptions(signs=24, signers=2, reps=1, size=48, val_signers=0, test_signers=0, difficulty="easy")
    with undrawn("clip"):
        return write_corpus(tmp_path_factory.mktemp("validate"), options)


def test_poses_tell_signs_and_features_apart_and_noise_does_not(
    corpus: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("islr.synth.validate.PHONOLOGY", ("sign_type",))
    poses = pose_features(corpus)
    noise = np.random.default_rng(0).normal(size=poses.shape)
    assert neighbour_accuracy(poses, corpus) > 0.4 > 0.2 > neighbour_accuracy(noise, corpus)
    (reading,), (chance,) = read_features(poses, corpus), read_features(noise, corpus)
    assert reading.feature == "SignType.2.0"
    assert reading.linear > reading.chance + 0.3
    assert abs(chance.linear - chance.chance) < 0.2


def test_contact_is_in_the_poses_of_unseen_signs(corpus: Manifest) -> None:
    """One threshold on one number, how near the hand comes to anything, tells contact in exact poses."""
    nearest = pose_features(corpus)[:, NEAREST]
    contact = {sign.entry_id: sign.contact == "1" for sign in read_lexicon(corpus.root / LEXICON)}
    touches = np.array([contact[clip.form] for clip in corpus])
    assert 0.3 < touches.mean() < 0.7
    assert ((nearest < 0.14) == touches).mean() > 0.9


def test_the_report_has_baselines_and_a_row_a_feature(corpus: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(corpus.root)]) == 0
    text = capsys.readouterr().out
    assert "48 clips, 24 signs" in text
    assert "chance 4.2 %" in text
    assert "| MajorLocation.2.0 |" in text


def test_what_is_no_corpus_of_signs_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    actions = SynthOptions(kind="actions", signs=1, signers=1, reps=1, size=48, val_signers=0, test_signers=0)
    write_corpus(tmp_path, actions)
    assert main([str(tmp_path)]) == 2
    assert "not a rendered corpus" in capsys.readouterr().err
