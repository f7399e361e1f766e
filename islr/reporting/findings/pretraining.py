"""How pre-training runs ended: their loss against trivial predictors, and what they logged."""

from dataclasses import dataclass

from islr.reporting.run_files import ReportedRun

PERPLEXITIES = ("target_perplexity", "perplexity")
COLLAPSED_PERPLEXITY = 1.5  # below this, nearly all visual tokens are the same
END = 0.1  # of a run, over which its last values are averaged


@dataclass(frozen=True)
class PretrainingEnd:
    """What a pre-training run logged at its end; None where its recipe does not log it.

    Attributes:
        run: The run.
        comparisons: Own loss, loss of a trivial predictor, and what that one predicts; for each predictor it logs.
        perplexity: Of the visual tokens that are predicted.
        accuracy: Of a recipe that classifies.
        chance: The accuracy of guessing.
    """

    run: ReportedRun
    comparisons: tuple[tuple[float, float, str], ...]
    perplexity: float | None
    accuracy: float | None
    chance: float | None

    @classmethod
    def of(cls, run: ReportedRun) -> "PretrainingEnd":
        """Average what the run logged over its end."""
        own = _first(run, run.compared_values)
        comparisons = [
            (own, trivial, words)
            for key, words in run.trivial_predictors.items()
            if own is not None and (trivial := end_value(run, key)) is not None
        ]
        perplexity = _first(run, PERPLEXITIES)
        return cls(run, tuple(comparisons), perplexity, end_value(run, "accuracy"), end_value(run, "chance"))

    @property
    def collapsed(self) -> bool:
        """Whether nearly all visual tokens are the same."""
        return self.perplexity is not None and self.perplexity < COLLAPSED_PERPLEXITY


def end_value(run: ReportedRun, key: str) -> float | None:
    """Return the mean of a training metric over the end of a run; None where it was not logged."""
    values = run.rows("train", key)[1]
    last = values[-max(1, round(len(values) * END)) :]
    return sum(last) / len(last) if last else None


def _first(run: ReportedRun, keys: tuple[str, ...]) -> float | None:
    return next((value for key in keys if (value := end_value(run, key)) is not None), None)
