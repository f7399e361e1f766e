"""How pre-training runs ended: whether their task was learned, and what they logged."""

from collections.abc import Mapping
from dataclasses import dataclass

from islr.evaluation.pretext import Verdict, end_values, judge
from islr.reporting.run_files import ReportedRun


@dataclass(frozen=True)
class PretrainingEnd:
    """The end of a pre-training run.

    Attributes:
        run: The run.
        values: Means of what it logged.
        verdict: Those of its values that trivial predictors are compared on.
    """

    run: ReportedRun
    values: Mapping[str, float]
    verdict: Verdict

    @classmethod
    def of(cls, run: ReportedRun) -> "PretrainingEnd":
        """Average what the run logged over its end."""
        values = end_values(run.metrics)
        return cls(run, values, judge(run.trivial_predictors, values))
