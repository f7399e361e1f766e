"""What else frozen features are asked, beside the linear probe: each analysis is one file and one name in
`analyses.run`.

All work on the unseen-sign folds, between sign groups; what is chosen is chosen inside training signs.
"""

from collections.abc import Callable
from pathlib import Path

from islr.config import config_hash
from probe.analyses import (
    attentive,
    erasure,
    few_shot,
    neighbours,
    online_code,
    pairs,
    retrieval,
    rsa,
    weighted_sum,
)
from probe.analyses.material import Material
from probe.findings import Finding, load, save
from probe.fitting import work_key

__all__ = ["ANALYSES", "Material", "analyse"]

VERSION = "analyses/2"
ANALYSES: dict[str, Callable[[Material], list[Finding]]] = {
    "mdl": online_code.mdl,
    "knn": neighbours.knn,
    "attentive": attentive.attentive,
    "weighted_sum": weighted_sum.weighted_sum,
    "minimal_pairs": pairs.minimal_pairs,
    "rsa": rsa.rsa,
    "few_shot": few_shot.few_shot,
    "retrieval": retrieval.retrieval,
    "erasure": erasure.erasure,
}


def analyse(material: Material, folder: Path, slug: str, key: str) -> list[Finding]:
    """The findings of every analysis the config asks for, made or read back.

    Args:
        material: The feature set.
        folder: Where findings are kept, one file for each analysis.
        slug: File name of the feature set.
        key: Hash of everything the findings depend on beside the settings of the analyses.
    """
    found = []
    settings = material.config.model_copy(update={"run": ()})
    for name in material.config.run:
        path = folder / f"{slug}.{name}.npz"
        mark = work_key(VERSION, name, key, config_hash(settings))
        made = load(path, mark)
        if made is None:
            made = ANALYSES[name](material)
            save(path, mark, made)
        found += made
    return found
