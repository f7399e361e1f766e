"""Probe results as plain-text tables for the terminal."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from islr.evaluation.results import Result
from probe.features.encoders import trained_with_labels
from probe.records import CHOSEN, DIFFERENCE
from probe.statistics.bootstrap import BUNDLES_MEAN, HEADLINE
from probe.statistics.scores import NOT_CONVERGED

WIDTH = 150
SHOWN = 8  # single features beside the mean; the others are in the records
# Analysis -> its title, the feature its table shows ("" = every feature), its printed metrics; records have all others.
ANALYSES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "mdl": ("Description length of labels", BUNDLES_MEAN, ("compression", "compression_without_features")),
    "knn": ("Nearest neighbours", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "few_shot": ("Few-shot", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "weighted_sum": ("Weighted sum of layers", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "attentive": ("Attentive probe", BUNDLES_MEAN, (HEADLINE, "over_linear")),
    "minimal_pairs": ("Minimal pairs", "", ("auc", "d_prime", "abx_error")),
    "rsa": ("Similarity to phonology", "all features", ("rho", "rho_partial", "noise_ceiling", "p_mantel")),
    "retrieval": ("Retrieval", "", ("recall_at_1", "recall_at_1_chance", "mrr", "ndcg")),
    "erasure": ("Change after erasing the feature itself", "", ("erasure_change",)),
}


def render(results: Sequence[Result]) -> str:
    """Format balanced accuracy in percent, a table for each split and a line for each row, then the analyses."""
    text = io.StringIO()
    console = Console(file=text, width=WIDTH)
    chosen = [r for r in results if r.group.get("layer") == CHOSEN and "analysis" not in r.group]
    for split in dict.fromkeys(r.group["split"] for r in chosen):
        console.print(_split_table(split, [r for r in chosen if r.group["split"] == split]))
    if chosen:
        p = chosen[0].provenance
        console.print(
            f"{p.clips_present} of {p.clips_expected} clips of {p.manifest};"
            " * above random initialisation (paired 95 %); ! not converged;"
            " † trained with sign labels: its unseen signs may be unseen by the probe only",
            highlight=False,
        )
    for table in _analysis_tables([r for r in results if "analysis" in r.group]):
        console.print(table)
    return text.getvalue()


def _split_table(split: str, results: Sequence[Result]) -> Table:
    scores = {(_row(r), r.group["feature"]): r for r in results if r.metric == HEADLINE}
    better = {
        (_row(r), r.group["feature"])
        for r in results
        if r.metric == DIFFERENCE and r.ci_low is not None and r.ci_low > 0
    }
    features = [f for f in dict.fromkeys(feature for _, feature in scores) if not f.startswith("mean:")][:SHOWN]
    table = Table(title=f"Balanced accuracy, %, {split}", title_justify="left")
    table.add_column("row")
    table.add_column("mean of bundles (95 % CI)", justify="right", no_wrap=True)
    for feature in features:
        table.add_column(feature, justify="right")
    for row in dict.fromkeys(row for row, _ in scores):
        labelled = any(trained_with_labels(r.provenance.pretraining) for r in results if _row(r) == row)
        cells = []
        for feature in (BUNDLES_MEAN, *features):
            result = scores.get((row, feature))
            cell = "" if result is None else f"{100 * result.value:.1f}{'*' * ((row, feature) in better)}"
            if result is not None:
                cell += "!" * (NOT_CONVERGED in result.ci_method)
                if feature == BUNDLES_MEAN and result.ci_low is not None:
                    cell += f" ({100 * result.ci_low:.1f}-{100 * (result.ci_high or 0):.1f})"
            cells.append(cell)
        table.add_row(" / ".join(filter(None, row)) + (" †" if labelled else ""), *cells)
    return table


def _analysis_tables(results: Sequence[Result]) -> list[Table]:
    """Make a table for each analysis: values as they are (fractions, bits), with 95 % intervals."""
    tables = []
    for name, (title, feature, metrics) in ANALYSES.items():
        cells: dict[tuple[str, str, str], dict[str, Result]] = {}
        for r in results:
            if r.group["analysis"] == name and r.metric in metrics and _shown(r, feature):
                what = "" if feature else r.group["feature"]
                setting = "" if name == "erasure" else r.group["setting"]
                key = (" / ".join(filter(None, _row(r))), " ".join(filter(None, (what, setting))), r.group["layer"])
                cells.setdefault(key, {})[r.metric] = r
        if not cells:
            continue
        table = Table(title=f"{title}, unseen signs", title_justify="left")
        for heading in ("row", "feature or setting", "block"):
            table.add_column(heading)
        for metric in metrics:
            table.add_column(metric, justify="right", no_wrap=True)
        for key, of_metrics in cells.items():
            table.add_row(*key, *[_with_interval(of_metrics.get(metric)) for metric in metrics])
        tables.append(table)
    return tables


def _shown(result: Result, shown: str) -> bool:
    """Return whether a table shows a result: its feature, and of erasures the change of the erased feature itself."""
    feature = result.group["feature"]
    if result.group["analysis"] == "retrieval":
        return feature in ("sign", BUNDLES_MEAN)
    if result.group["analysis"] == "erasure":
        return result.group["setting"] == f"erased {feature}"
    return shown in ("", feature)


def _with_interval(result: Result | None) -> str:
    if result is None:
        return ""
    mark = "!" * (NOT_CONVERGED in result.ci_method)
    bounds = "" if result.ci_low is None else f" ({result.ci_low:.3f}, {result.ci_high:.3f})"
    return f"{result.value:.3f}{mark}{bounds}"


def _row(result: Result) -> tuple[str, str]:
    control = result.group.get("control", "")
    architecture = result.provenance.encoder if control == "random-init" else ""
    return result.name, architecture or ("permuted" if control == "permuted" else "")
