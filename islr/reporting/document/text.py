"""Numbers and names as text for readers: percent, intervals, p-values, short hashes."""

import math
import re

from islr.evaluation.results import Result

HASH_SHOWN = 12  # hexadecimal digits of a hash that are printed; the full one is in the tooltip and in the CSV
MINUS = "\N{MINUS SIGN}"
METRICS = {
    "top1": "Top-1",
    "top5": "Top-5",
    "top10": "Top-10",
    "top1_last_epoch": "Last epoch, top-1",
    "top1_per_class": "Top-1 per class",
    "top5_per_class": "Top-5 per class",
    "top10_per_class": "Top-10 per class",
    "top1_per_signer": "Top-1, mean over signers",
    "mrr": "MRR",
    "dcg": "DCG",
    "original_top1": "By label, top-1",
    "original_top5": "By label, top-5",
    "same_form_top1": "Same form, top-1",
    "same_form_top5": "Same form, top-5",
    "revised_top1": "By form, top-1",
    "revised_top5": "By form, top-5",
    "label_ceiling_top1": "Ceiling, top-1",
    "label_ceiling_top5": "Ceiling, top-5",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "mcc": "Matthews correlation",
    "bits": "Information, bits",
    "ece": "Calibration error (ECE)",
    "ece_adaptive": "Calibration error, equal bins",
    "ece_if_calibrated": "Calibration error of a calibrated model",
    "nll": "Negative log-likelihood",
    "p_holm": "p, Holm",
    "selectivity": "Selectivity",
    "chance_top1": "Chance",
    "classes_absent": "Classes without a clip",
}


def percent(value: float | None, signed: bool = False) -> str:
    """A fraction as percent with one decimal and no unit, `0.79` -> `79.0`; an en dash for None."""
    if value is None:
        return "–"
    shown = f"{abs(value) * 100:.1f}"
    if value < 0 and shown != "0.0":
        return MINUS + shown
    return ("+" if signed and shown != "0.0" else "") + shown


def interval(low: float | None, high: float | None, signed: bool = False) -> str:
    """`73.6–84.2`, or `+1.0 to +8.2` where bounds carry signs; empty without interval."""
    if low is None or high is None:
        return ""
    return f"{percent(low, signed)}{' to ' if signed else '–'}{percent(high, signed)}"


def p_value(p: float) -> str:
    """`p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def count(n: float) -> str:
    """`21,083`."""
    return f"{n:,.0f}"


def short_hash(text: str) -> str:
    """The first digits of a hexadecimal hash; other text unchanged."""
    return re.sub(r"[0-9a-f]{24,}", lambda match: match.group()[:HASH_SHOWN], text)


def metric_name(metric: str) -> str:
    """A metric as people call it."""
    return METRICS.get(metric, metric.replace("_", " ").capitalize())


def is_fraction(metric: str) -> bool:
    """Whether the metric is shown in percent."""
    fractions = ("top", "mrr", "dcg", "chance", "accuracy", "balanced_accuracy", "macro_f1", "selectivity")
    return metric.startswith(fractions) or re.search(r"_top\d+$", metric) is not None


def feature_name(feature: str) -> str:
    """`MajorLocation` -> `Major location`; `mean:bundles` -> `Mean of bundles`."""
    if feature.startswith("mean:"):
        return f"Mean of {feature.removeprefix('mean:').replace('_', ' ')}"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", feature.split(":")[-1].replace("_", " ").split(".")[0])
    return words[:1].upper() + words[1:].lower()


def regime_name(regime: str) -> str:
    """`generic_then_sign` -> `generic → sign`."""
    return regime.replace("_then_", " → ").replace("_", " ")


def number(value: float) -> str:
    """A plain number with up to four significant digits, whole numbers whole."""
    if math.isfinite(value) and value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def explain(result: Result) -> str:
    """Return the text of a tooltip: value, interval, n and how the interval was made."""
    if not is_fraction(result.metric):
        return f"{metric_name(result.metric)} {number(result.value)}, n = {count(result.n)}"
    text = f"{percent(result.value)} %"
    if result.ci_low is not None:
        text += f", 95 % CI {interval(result.ci_low, result.ci_high)} ({result.ci_method})"
    return f"{text}, n = {count(result.n)}"


def enumerate_words(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
