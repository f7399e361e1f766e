"""Whether a pretext task was learned: what a run logged at its end against trivial predictors, and collapses.

The run's last message, `islr check`, the report and the grid's marks all come from `judge`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

END = 0.1  # of a run, over which its last values are averaged
COLLAPSED_PERPLEXITY = 1.5  # below this, nearly all visual tokens are the same
UNIFORM = 0.98  # of log K: a teacher above it spreads every clip over all prototypes
ONE_PROTOTYPE = 0.02  # of log K: a mean over clips below it has all of them on one prototype
NOT_LEARNED = "not learned"
_PERPLEXITIES = ("target_perplexity", "perplexity")


@dataclass(frozen=True)
class Trivial:
    """A predictor that knows nothing of what is hidden, and the logged values its score is compared with.

    Attributes:
        predicts: What it predicts, as "zero everywhere".
        values: Names of the logged values; the first one that was logged counts.
        rises: Whether more is better, as for an accuracy.
    """

    predicts: str
    values: tuple[str, ...] = ("loss",)
    rises: bool = False


@dataclass(frozen=True)
class TrivialComparison:
    """A logged value of a recipe beside the score of a trivial predictor."""

    value: str
    own: float
    trivial: float
    predictor: Trivial

    @property
    def beaten(self) -> bool:
        """Whether the recipe is better; a value that is not finite is not."""
        return self.own > self.trivial if self.predictor.rises else self.own < self.trivial

    def __str__(self) -> str:
        side = "above" if self.predictor.rises else "below"
        no = "" if self.beaten else "not "
        return f"{self.value} {self.own:.4g} is {no}{side} {self.trivial:.4g} of {self.predictor.predicts}"


@dataclass(frozen=True)
class Verdict:
    """What a run's end says of its pretext task.

    Attributes:
        comparisons: One for each trivial predictor that was logged.
        collapse: How its targets or features collapsed; empty if they did not.
    """

    comparisons: tuple[TrivialComparison, ...]
    collapse: str = ""

    @property
    def hardest(self) -> list[TrivialComparison]:
        """Of each compared value, the comparison with the best trivial predictor."""
        best: dict[str, TrivialComparison] = {}
        for one in self.comparisons:
            held = best.setdefault(one.value, one)
            if one.trivial > held.trivial if one.predictor.rises else one.trivial < held.trivial:
                best[one.value] = one
        return list(best.values())

    @property
    def reasons(self) -> list[str]:
        """Why the task counts as not learned; empty if it was learned, or if nothing can be said."""
        return [str(one) for one in self.comparisons if not one.beaten] + ([self.collapse] if self.collapse else [])

    def __str__(self) -> str:
        """`learned`, `not learned: REASONS`, or nothing where nothing was compared."""
        if self.reasons:
            return f"{NOT_LEARNED}: {'; '.join(self.reasons)}"
        return "learned" if self.comparisons else ""


def judge(predictors: Mapping[str, Trivial], logged: Mapping[str, float]) -> Verdict:
    """Compare logged values with the trivial predictors' scores among them.

    Args:
        predictors: Logged name of each -> what it is.
        logged: Values of a step, or their means over the end of a run.
    """
    comparisons = []
    for name, predictor in predictors.items():
        value = next((value for value in predictor.values if value in logged), None)
        if value is not None and name in logged:
            comparisons.append(TrivialComparison(value, logged[value], logged[name], predictor))
    return Verdict(tuple(comparisons), _collapse(logged))


def _collapse(logged: Mapping[str, float]) -> str:
    if logged.get("collapsed"):
        return "the features of all clips are nearly the same"
    perplexity = next((logged[name] for name in _PERPLEXITIES if name in logged), None)
    if perplexity is not None and perplexity < COLLAPSED_PERPLEXITY:
        return f"nearly all visual tokens are the same (perplexity {perplexity:.2f})"
    uniform, entropy = logged.get("uniform_teacher"), logged.get("teacher_entropy")
    if uniform is None or entropy is None:
        return ""
    if entropy > UNIFORM * uniform:
        return f"the teacher is uniform over its prototypes (entropy {entropy:.4g} of at most {uniform:.4g})"
    used = logged.get("prototype_entropy", entropy)
    if used < ONE_PROTOTYPE * uniform:
        return (
            f"the teacher has one prototype for all clips (entropy of their mean {used:.3g} of at most {uniform:.4g})"
        )
    return ""


def end_values(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each training value over the end of a run, of the rows of its `metrics.jsonl`.

    `collapsed` is that of the last evaluation of the features.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get("kind") == "train":
            for name, value in row.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    values.setdefault(name, []).append(float(value))
        elif "collapsed" in row:
            values["collapsed"] = [float(row["collapsed"])]
    ends = {name: series[-max(1, round(len(series) * END)) :] for name, series in values.items()}
    return {name: sum(last) / len(last) for name, last in ends.items()}


def to_json(predictors: Mapping[str, Trivial]) -> dict[str, Any]:
    """Return trivial predictors as plain values."""
    return {name: asdict(predictor) for name, predictor in predictors.items()}


def from_json(facts: Mapping[str, Any]) -> dict[str, Trivial]:
    """Return the trivial predictors of `to_json`."""
    return {name: Trivial(one["predicts"], tuple(one["values"]), one["rises"]) for name, one in facts.items()}
