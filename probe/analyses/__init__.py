"""Analyses of frozen features beside the linear probe: each is one file and one entry of `ANALYSES`.

All use the unseen-sign folds and test between sign groups; whatever is chosen is chosen inside training signs.
"""

from collections.abc import Callable
from pathlib import Path

from islr.config import config_hash
from probe.analyses import (
    attentive,
    description_length,
    erasure,
    few_shot,
    minimal_pairs,
    neighbours,
    retrieval,
    rsa,
    weighted_sum,
)
from probe.analyses.context import AnalysisContext
from probe.features.npz_cache import work_key
from probe.findings import Finding, load, save

__all__ = ["ANALYSES", "AnalysisContext", "analyse"]

VERSION = "analyses/2"
ANALYSES: dict[str, Callable[[AnalysisContext], list[Finding]]] = {
    "mdl": description_length.mdl,
    "knn": neighbours.knn,
    "attentive": attentive.attentive,
    "weighted_sum": weighted_sum.weighted_sum,
    "minimal_pairs": minimal_pairs.minimal_pairs,
    "rsa": rsa.rsa,
    "few_shot": few_shot.few_shot,
    "retrieval": retrieval.retrieval,
    "erasure": erasure.erasure,
}


def analyse(context: AnalysisContext, folder: Path, slug: str, key: str) -> list[Finding]:
    """Run every analysis that the config names, or read its findings from the cache.

    Args:
        context: The feature set.
        folder: The cache, one file for each analysis.
        slug: File name of the feature set.
        key: Hash of everything the findings depend on beside the settings of the analyses.
    """
    results = []
    settings = context.config.model_copy(update={"run": ()})
    for name in context.config.run:
        path = folder / f"{slug}.{name}.npz"
        cache_key = work_key(VERSION, name, key, config_hash(settings))
        findings = load(path, cache_key)
        if findings is None:
            findings = ANALYSES[name](context)
            save(path, cache_key, findings)
        results += findings
    return results
