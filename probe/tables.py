"""Probe results as plain text."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from islr.evaluation.results import Result
from probe.config import FINE_TUNING, LABEL_RECIPES
from probe.records import CHOSEN, DIFFERENCE
from probe.statistics.draws import BUNDLES_MEAN, HEADLINE

WIDTH = 150
WITH_LABELS = (*LABEL_RECIPES, FINE_TUNING)
SHOWN = 8  # single features beside the mean; the others are in the records


def render(results: Sequence[Result]) -> str:
    """Balanced accuracy in percent: a table per split, a line per row, the mean with its interval.

    * marks a cell whose paired difference to random initialisation has an interval without zero, ! one with a
    probe that did not reach its optimum.
    """
    text = io.StringIO()
    console = Console(file=text, width=WIDTH)
    chosen = [r for r in results if r.group.get("layer") == CHOSEN and "analysis" not in r.group]
    for split in dict.fromkeys(r.group["split"] for r in chosen):
        here = [r for r in chosen if r.group["split"] == split]
        scores = {(_row(r), r.group["feature"]): r for r in here if r.metric == HEADLINE}
        better = {
            (_row(r), r.group["feature"])
            for r in here
            if r.metric == DIFFERENCE and r.ci_low is not None and r.ci_low > 0
        }
        features = [f for f in dict.fromkeys(feature for _, feature in scores) if not f.startswith("mean:")][:SHOWN]
        table = Table(title=f"Balanced accuracy, %, {split}", title_justify="left")
        table.add_column("row")
        table.add_column("mean of bundles (95 % CI)", justify="right", no_wrap=True)
        for feature in features:
            table.add_column(feature, justify="right")
        for row in dict.fromkeys(row for row, _ in scores):
            cells = []
            informed = any(_saw_labels(r) for r in here if _row(r) == row)
            for feature in (BUNDLES_MEAN, *features):
                found = scores.get((row, feature))
                mark = "*" if (row, feature) in better else ""
                mark += "!" if found is not None and "NOT CONVERGED" in found.ci_method else ""
                cell = "" if found is None else f"{100 * found.value:.1f}{mark}"
                if found is not None and feature == BUNDLES_MEAN and found.ci_low is not None:
                    cell += f" ({100 * found.ci_low:.1f}-{100 * (found.ci_high or 0):.1f})"
                cells.append(cell)
            table.add_row(" / ".join(filter(None, row)) + (" †" if informed else ""), *cells)
        console.print(table)
    if chosen:
        p = chosen[0].provenance
        console.print(
            f"{p.clips_present} of {p.clips_expected} clips of {p.manifest};"
            " * above random init (paired 95 %); ! not converged;"
            " † trained with sign labels: its unseen signs may be unseen by the probe only",
            highlight=False,
        )
    for table in _analyses([r for r in results if "analysis" in r.group]):
        console.print(table)
    return text.getvalue()


# Analysis -> its name in words, what the rows are about, the metrics that are printed. All others are in the records.
ANALYSES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "mdl": ("Code length of labels", BUNDLES_MEAN, ("compression", "compression_without_features")),
    "knn": ("Nearest neighbours", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "few_shot": ("Few-shot", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "weighted_sum": ("Weighted sum of layers", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "attentive": ("Attentive probe", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "minimal_pairs": ("Minimal pairs", "", ("auc", "d_prime", "abx_error")),
    "rsa": ("Similarity to phonology", "all features", ("rho", "rho_partial", "noise_ceiling", "p_mantel")),
    "retrieval": ("Retrieval", "", ("recall_at_1", "recall_at_1_chance", "mrr", "ndcg")),
    "erasure": ("Change after erasing the feature itself", "", ("erasure_change",)),
}
_IN_RETRIEVAL = ("sign", BUNDLES_MEAN)


def _analyses(results: Sequence[Result]) -> list[Table]:
    """A table for each analysis: values as they are (fractions, bits), with 95 % intervals."""
    made = []
    for name, (title, about, metrics) in ANALYSES.items():
        cells: dict[tuple[str, ...], dict[str, Result]] = {}
        for r in results:
            feature, setting = r.group["feature"], r.group["setting"]
            if r.group["analysis"] != name or r.metric not in metrics or about not in ("", feature):
                continue
            if name == "retrieval" and feature not in _IN_RETRIEVAL:
                continue
            if name == "erasure" and setting != f"erased {feature}":
                continue
            what = " ".join(filter(None, ("" if about else feature, "" if name == "erasure" else setting)))
            cells.setdefault((" / ".join(filter(None, _row(r))), what, r.group["layer"]), {})[r.metric] = r
        if not cells:
            continue
        table = Table(title=f"{title}, unseen signs", title_justify="left")
        for heading in ("row", "about", "block"):
            table.add_column(heading)
        for metric in metrics:
            table.add_column(metric, justify="right", no_wrap=True)
        for key, found in cells.items():
            table.add_row(*key, *[_with_interval(found.get(metric)) for metric in metrics])
        made.append(table)
    return made


def _with_interval(result: Result | None) -> str:
    if result is None:
        return ""
    mark = "!" if "NOT CONVERGED" in result.ci_method else ""
    bounds = "" if result.ci_low is None else f" ({result.ci_low:.3f}, {result.ci_high:.3f})"
    return f"{result.value:.3f}{mark}{bounds}"


def _saw_labels(result: Result) -> bool:
    return any(stage.get("recipe") in WITH_LABELS for stage in result.provenance.pretraining)


def _row(result: Result) -> tuple[str, str]:
    control = result.group.get("control", "")
    architecture = result.provenance.encoder if control == "random-init" else ""
    return result.name, architecture or ("permuted" if control == "permuted" else "")
