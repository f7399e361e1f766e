"""The verdict on a pretext task: trivial predictors, collapses, and the end of a run."""

import json
import math

import pytest

from islr.evaluation.pretext import Trivial, end_values, from_json, judge, to_json

LINE = Trivial("lines", ("points",))
CHANCE = Trivial("chance", ("accuracy",), rises=True)


def test_every_predictor_must_be_beaten() -> None:
    predictors = {"line": LINE, "rest": Trivial("rest", ("points",)), "chance": CHANCE}
    logged = {"loss": 1.0, "points": 0.5, "line": 0.6, "rest": 0.9, "accuracy": 0.3, "chance": 0.1}
    assert str(judge(predictors, logged)) == "learned"
    assert [one.predictor for one in judge(predictors, logged).hardest] == [LINE, CHANCE]
    worse = judge(predictors, logged | {"line": 0.5, "accuracy": 0.1})
    assert str(worse) == "not learned: points 0.5 is not below 0.5 of lines; accuracy 0.1 is not above 0.1 of chance"
    assert not judge({"line": LINE}, {"points": math.nan, "line": 0.5}).comparisons[0].beaten
    assert str(judge(predictors, {"loss": 1.0})) == ""


@pytest.mark.parametrize(
    ("logged", "message"),
    [
        ({"teacher_entropy": 6.93, "prototype_entropy": 6.93}, "the teacher is uniform over its prototypes"),
        ({"teacher_entropy": 0.01, "prototype_entropy": 0.01}, "the teacher has one prototype for all clips"),
        ({"teacher_entropy": 0.01, "prototype_entropy": 3.0}, ""),  # each clip has its own
        ({"teacher_entropy": 6.7, "prototype_entropy": 6.8}, ""),
    ],
)
def test_a_collapsed_teacher_has_learned_nothing(logged: dict[str, float], message: str) -> None:
    predictors = {"uniform_teacher": Trivial("every prototype alike")}
    verdict = judge(predictors, logged | {"loss": 0.001, "uniform_teacher": math.log(1024)})
    assert verdict.collapse.startswith(message)
    assert str(verdict).startswith("not learned: the teacher" if message else "learned")


def test_the_end_is_the_last_tenth_of_what_was_logged() -> None:
    rows = [{"kind": "train", "step": step, "loss": float(step), "name": "a"} for step in range(1, 41)]
    rows += [{"kind": "val", "loss": 99.0}, {"kind": "train", "loss": math.inf}]
    assert end_values(rows)["loss"] == (37 + 38 + 39 + 40) / 4
    assert "name" not in end_values(rows)


def test_features_collapsed_at_the_end_count_and_earlier_ones_do_not() -> None:
    looks = [{"kind": "val", "step": step, "collapsed": collapsed} for step, collapsed in ((0, 1.0), (9, 0.0))]
    rows = [{"kind": "train", "loss": 1.0, "line": 2.0}, *looks]
    predictors = {"line": Trivial("lines")}
    assert str(judge(predictors, end_values(rows))) == "learned"
    late = judge(predictors, end_values([*rows, {"kind": "val", "step": 10, "collapsed": 1.0}]))
    assert str(late) == "not learned: the features of all clips are nearly the same"


def test_predictors_are_the_same_after_a_file() -> None:
    predictors = {"line": LINE, "chance": CHANCE}
    assert from_json(json.loads(json.dumps(to_json(predictors)))) == predictors
