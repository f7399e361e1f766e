"""Files of predictions, ours and foreign: what is read, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from support.random_predictions import by_key, predictions
from support.records import PROVENANCE

from islr.data.manifest import Clip, Manifest
from islr.errors import UserError
from islr.evaluation import metrics
from islr.evaluation.predictions import read_predictions, write_predictions
from islr.evaluation.results import Provenance


@pytest.mark.parametrize(
    ("text", "mrr", "top5"),
    [
        ("clip_id,class,rank1,rank2\nx,a,a,b\ny,c,a,b\n", None, None),  # the rank of c is above 2, and unknown
        ("clip_id,class,rank1,rank2\nx,a,a,b\ny,b,a,b\n", 0.75, None),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,a,b,1\ny,c,a,b,4\n", 0.625, None),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,a,b,1\ny,c,a,b,\n", None, None),  # a blank cell is no rank
        ("clip_id,class,rank1,rank2,true_rank\nx,a,a,b,1\ny,c,a,b,8\n", 0.5625, 0.5),
    ],
)
def test_a_rank_that_a_file_does_not_give_is_unknown(
    tmp_path: Path, text: str, mrr: float | None, top5: float | None
) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    read = read_predictions(path)
    records = by_key(metrics.accuracy_results(read, "m", 9, Provenance(**PROVENANCE), draws=20))
    values = [records[name, ""].value if (name, "") in records else None for name in ("mrr", "top5")]
    assert values == [mrr, top5]
    if mrr is None:
        with pytest.raises(ValueError, match=r"dcg needs the rank .* unknown for 1 of 2 clips"):
            metrics.gains(read, "dcg")


@pytest.mark.parametrize("k", [3, 8])
def test_predictions_file_round_trip(tmp_path: Path, k: int) -> None:
    made = predictions(k=k)
    write_predictions(tmp_path / "predictions.csv", made)
    read = read_predictions(tmp_path / "predictions.csv")
    for name in ("clip_ids", "signers", "sources", "classes", "ranked"):
        assert getattr(read, name) == getattr(made, name)
    for name in ("labels", "true_probabilities", "true_ranks"):
        assert np.array_equal(getattr(read, name), getattr(made, name))
    assert np.array_equal(read.scores[:, : min(k, 5)], made.scores)
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0].split(",")
    assert header[:6] == ["clip_id", "signer", "source", "label", "class", "rank1"]


def test_foreign_predictions_are_scored_with_the_truth_of_the_manifest(tmp_path: Path) -> None:
    clips = tuple(Clip(f"c{i}", f"c{i}.mp4", label=i % 2, signer=f"s{i}", split="test") for i in range(4))
    manifest = Manifest("m", clips, tmp_path, classes=("BOOK", "DRINK", "CUP"))
    path = tmp_path / "theirs.csv"
    path.write_text("clip_id,rank1,rank2\nc0,BOOK,DRINK\nc1,BOOK,DRINK\nc2,CUP,BOOK\nc3,CUP,BOOK\n")
    read = read_predictions(path, manifest)
    assert read.true_ranks.tolist() == [1, 2, 2, 3]
    assert read.signers == ("s0", "s1", "s2", "s3")
    assert metrics.hits(read, 2).tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="list 2"):
        metrics.hits(read, 5)


def test_foreign_ties_count_against_the_model(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("clip_id,class,rank1,rank2,score1,score2\nc0,BOOK,BOOK,CUP,0.5,0.5\nc1,BOOK,BOOK,CUP,0.6,0.4\n")
    assert read_predictions(path).true_ranks.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip,rank1\nx,y\n", "no column 'clip_id'"),
        ("clip_id,rank1\nx,y\n", "no column 'class'"),
        ("clip_id,class,rank1\n", "no predictions"),
        ("clip_id,class,rank1\nx,a,a\nx,a,a\n", "clip x occurs more than once"),
        ("clip_id,class,rank1,rank2\nx,a,b,b\n", "line 2: a class is ranked twice"),
        ("clip_id,class,rank1\nx,a,\n", "line 2"),
        ("clip_id,class,rank1,score1\nx,a,a,high\n", "line 2"),
        ("clip_id,class,rank1,rank2,score1,score2\nx,a,a,b,0.2,0.4\n", "line 2: scores must fall"),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,b,a,1\n", "line 2: true_rank 1 contradicts"),
        ("clip_id,class,rank1,rank2,true_rank\nx,a,b,c,2\n", "line 2: true_rank 2 contradicts"),
    ],
)
def test_broken_prediction_files_are_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_predictions(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "absent.csv")


def test_foreign_predictions_that_contradict_the_manifest_are_refused(tmp_path: Path) -> None:
    manifest = Manifest("m", (Clip("c0", "c0.mp4", label=0, split="test"),), tmp_path, classes=("BOOK",))
    path = tmp_path / "theirs.csv"
    path.write_text("clip_id,class,rank1\nc0,CUP,CUP\n")
    with pytest.raises(UserError, match="'BOOK' in the manifest"):
        read_predictions(path, manifest)
    path.write_text("clip_id,rank1\nother,CUP\n")
    with pytest.raises(UserError, match="not a labelled clip"):
        read_predictions(path, manifest)
    path.write_text("clip_id,rank1,rank2\nc0,BOOK,CUP\n")
    with pytest.raises(UserError, match="line 2: 'CUP' is not one of the 1 classes of m"):
        read_predictions(path, manifest)
    path.write_text("clip_id,rank1,true_rank\nc0,BOOK,2\n")
    with pytest.raises(UserError, match="line 2: true_rank 2 is beyond the 1 classes of m"):
        read_predictions(path, manifest)
