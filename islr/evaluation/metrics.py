"""Recognition metrics with their intervals, and paired comparison of runs.

Everything is computed from the contents of `predictions.csv` (`islr.evaluation.predictions`), so a model from
elsewhere enters the same tables by its predictions alone.

Conventions:
- Top-k is defined only for k smaller than the number of classes; with at most five classes there is no
  top-5, because it would be 100 % by construction.
- "mrr" and "dcg" are means over clips of what retrieval papers take from the rank r of the true class, 1 / r and
  1 / log2(1 + r) (ASL Citizen, Desai et al., arXiv 2304.05934); their Rec@k is top-k. A file that lists only the first
  ranks of some clip has neither.
- "per class" is the mean over the classes that occur in the scored clips of the accuracy inside each class;
  the count of classes that do not occur is a record of its own.
- Intervals, over clips or whole signers: `islr.evaluation.intervals`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from islr.errors import UserError
from islr.evaluation.intervals import DRAWS, PAIRED_DRAWS, Difference, Interval, bootstrap, paired_bootstrap
from islr.evaluation.predictions import Predictions
from islr.evaluation.results import Provenance, Result

TOP_KS = (1, 5, 10)
LAST_EPOCH = "top1_last_epoch"
SEEN_KEY = "signer_in_training"
GAINS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "mrr": lambda ranks: 1 / ranks,
    "dcg": lambda ranks: 1 / np.log2(1 + ranks),
}


@dataclass(frozen=True)
class Confusion:
    """Clips of class `true` that were taken for class `predicted`."""

    true: str
    predicted: str
    count: int
    of: int


def hits(predictions: Predictions, k: int) -> NDArray[np.float64]:
    """Return 1.0 where the true class is among the first k, else 0.0; [N].

    Raises:
        ValueError: The predictions list fewer than k ranks.
    """
    if k > predictions.known_ranks:
        raise ValueError(f"top-{k} needs {k} ranks for each clip; these predictions list {predictions.known_ranks}")
    return (predictions.true_ranks <= k).astype(np.float64)


def gains(predictions: Predictions, metric: str) -> NDArray[np.float64]:
    """Return what each clip adds to "mrr" or "dcg", [N].

    Raises:
        ValueError: The rank of the true class of some clip is not known.
    """
    if not predictions.exact:
        unknown = int((predictions.true_ranks > predictions.known_ranks).sum())
        raise ValueError(
            f"{metric} needs the rank of the true class of every clip (column true_rank); it is unknown for {unknown} "
            f"of {len(predictions)} clips"
        )
    return GAINS[metric](predictions.true_ranks)


def defined_ks(num_classes: int, known_ranks: int, ks: Sequence[int] = TOP_KS) -> tuple[int, ...]:
    """Return each k for which top-k is defined: below the number of classes, and within the listed ranks."""
    return tuple(k for k in ks if k < num_classes and k <= known_ranks)


def signer_clusters(predictions: Predictions) -> tuple[str, ...]:
    """Return the signer of each clip, to draw whole signers.

    Raises:
        UserError: A clip has no signer; all such clips would count as one person.
    """
    unknown = [clip for clip, signer in zip(predictions.clip_ids, predictions.signers, strict=True) if not signer]
    if unknown:
        raise UserError(
            f"intervals over signers need the signer of every clip; {len(unknown)} of {len(predictions)} have none, "
            f"such as {unknown[0]}"
        )
    return predictions.signers


def compare(
    a: Predictions, b: Predictions, k: int = 1, cluster_by_signer: bool = False, draws: int = PAIRED_DRAWS
) -> Difference:
    """Return the paired difference of top-k between two runs, a - b, matched by clip.

    Raises:
        ValueError: The runs did not score the same clips with the same classes, or clips to be drawn by signer have
            none.
    """
    a, b = a.sorted(), b.sorted()
    if a.clip_ids != b.clip_ids:
        odd = sorted(set(a.clip_ids) ^ set(b.clip_ids))
        raise ValueError(f"{len(odd)} clips were scored by only one of the runs, such as {odd[0]}")
    if a.classes != b.classes:
        raise ValueError("the two runs give different true classes to the same clips")
    clusters = signer_clusters(a) if cluster_by_signer else None
    return paired_bootstrap(hits(a, k), hits(b, k), clusters=clusters, draws=draws)


def confusions(predictions: Predictions, limit: int | None = None) -> list[Confusion]:
    """Count wrong first choices by (true, predicted); most frequent first, then by name."""
    of: dict[str, int] = {}
    counts: dict[tuple[str, str], int] = {}
    for true, ranked, rank in zip(predictions.classes, predictions.ranked, predictions.true_ranks, strict=True):
        of[true] = of.get(true, 0) + 1
        if rank != 1:
            counts[true, ranked[0]] = counts.get((true, ranked[0]), 0) + 1
    pairs = [Confusion(true, other, count, of[true]) for (true, other), count in counts.items()]
    return sorted(pairs, key=lambda c: (-c.count, c.true, c.predicted))[:limit]


def accuracy_results(
    predictions: Predictions,
    name: str,
    num_classes: int,
    provenance: Provenance,
    trained_signers: Collection[str] | None = None,
    draws: int = DRAWS,
) -> list[Result]:
    """Return all recognition records of one run: overall, per class, by signer, by source, and the chance level.

    Args:
        predictions: The ranked classes of each clip.
        name: Row name of the run, such as "maskfeat" or "random init".
        num_classes: Classes the model chooses among.
        provenance: Where the predictions come from; where its `cluster` is "signer", whole signers are drawn for
            every interval that is over more than one of them.
        trained_signers: Signers that the model was trained on, named as in the predictions; None = not known.
        draws: Bootstrap draws.

    Returns:
        Metrics top1, top5, top10 and each of them with `_per_class` (only for k below the number of classes); mrr
        and dcg where all ranks are known; top1 with group {"signer": ...} and {"source": ...} where there are at least
        two; top-k of the clips whose signer was, and was not, in training with group {"signer_in_training": "yes" |
        "no"}; top1_per_signer, the mean over signers; chance_top1 = 1 / classes; classes_absent.

    Raises:
        ValueError: There are no clips, or whole signers are to be drawn and a clip has none.
    """
    if not len(predictions):
        raise ValueError("no clips to score")
    score = _Scorer(predictions, name, num_classes, provenance, draws)
    return [
        *score.overall(),
        *score.by_rank(),
        *score.by_group(),
        *score.over_signers(),
        *score.by_exposure(trained_signers),
        *score.facts(),
    ]


def last_epoch_result(predictions: Predictions, name: str, provenance: Provenance) -> Result:
    """Return top-1 of the weights of the last epoch, as most papers report it: nothing was chosen on any clip."""
    clusters = signer_clusters(predictions) if provenance.cluster == "signer" else None
    score = bootstrap(hits(predictions, 1), clusters=clusters)
    return score.record(name, LAST_EPOCH, len(predictions), provenance)


class _Scorer:
    """The records of one run; clips are chosen by masks `[N]`."""

    def __init__(
        self, predictions: Predictions, name: str, num_classes: int, provenance: Provenance, draws: int
    ) -> None:
        self._predictions, self._name, self._num_classes = predictions, name, num_classes
        self._provenance, self._draws = provenance, draws
        self._all = np.ones(len(predictions), dtype=bool)
        self._signers = np.array(predictions.signers)
        self._clusters = np.array(signer_clusters(predictions)) if provenance.cluster == "signer" else None
        self._ks = defined_ks(num_classes, predictions.known_ranks)

    def _record(
        self, metric: str, interval: Interval, n: int, group: dict[str, str] | None = None, higher: bool = True
    ) -> Result:
        return interval.record(self._name, metric, n, self._provenance, group, higher)

    def _mean(
        self, values: NDArray[np.float64], chosen: NDArray[np.bool_], labels: NDArray[np.int64] | None = None
    ) -> Interval:
        """Bootstrap the mean of the chosen clips, over whole signers where the provenance says so."""
        drawn = None if self._clusters is None else self._clusters[chosen].tolist()
        return bootstrap(values[chosen], labels, drawn, self._draws)

    def overall(self) -> Iterator[Result]:
        """Yield top-k over all clips, and as the mean over classes."""
        for k in self._ks:
            right, n = hits(self._predictions, k), len(self._predictions)
            yield self._record(f"top{k}", self._mean(right, self._all), n)
            yield self._record(f"top{k}_per_class", self._mean(right, self._all, self._predictions.labels), n)

    def by_rank(self) -> Iterator[Result]:
        """Yield the mean reciprocal rank and the discounted gain, where every rank is known."""
        for metric in GAINS if self._predictions.exact else ():
            values = gains(self._predictions, metric)
            yield self._record(metric, self._mean(values, self._all), len(values))

    def by_group(self) -> Iterator[Result]:
        """Yield top-1 of each signer and of each source, where there are at least two."""
        right = hits(self._predictions, 1)
        for key, names in (("signer", self._signers), ("source", np.array(self._predictions.sources))):
            known = sorted(set(names.tolist()) - {""})
            for member in known if len(known) > 1 else []:
                chosen = names == member
                # One signer is one cluster, so the interval within it is over its clips.
                interval = bootstrap(right[chosen], draws=self._draws) if key == "signer" else self._mean(right, chosen)
                yield self._record("top1", interval, int(chosen.sum()), {key: member})

    def over_signers(self) -> Iterator[Result]:
        """Yield the mean over signers of top-1."""
        named = self._signers != ""
        people = np.unique(self._signers[named], return_inverse=True)[1].astype(np.int64)
        if named.any() and people.max() > 0:
            right = hits(self._predictions, 1)
            yield self._record("top1_per_signer", self._mean(right, named, people), int(named.sum()))

    def by_exposure(self, trained_signers: Collection[str] | None) -> Iterator[Result]:
        """Yield top-k of the clips whose signer was in training, and of those whose signer was not."""
        if trained_signers is None:
            return
        named = self._signers != ""
        trained = np.isin(self._signers, sorted(trained_signers)) & named
        for answer, chosen in (("yes", trained), ("no", named & ~trained)):
            for k in self._ks if chosen.any() else ():
                interval = self._mean(hits(self._predictions, k), chosen)
                yield self._record(f"top{k}", interval, int(chosen.sum()), {SEEN_KEY: answer})

    def facts(self) -> Iterator[Result]:
        """Yield the chance level, and the number of classes without a scored clip."""
        n, absent = len(self._predictions), self._num_classes - len(np.unique(self._predictions.labels))
        yield self._record("chance_top1", Interval(1 / self._num_classes, None, None, ""), n)
        yield self._record("classes_absent", Interval(float(absent), None, None, ""), n, higher=False)
