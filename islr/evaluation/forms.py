"""Scores by sign form beside the scores by label: one sign has several words, and a word several signs.

A model trained on English words is marked wrong for "mom" where the label is "mother", though both words have the
same sign. Where a manifest names each clip's form, its test records also hold the accuracy by form, and the label
ceiling: the accuracy by word of a perfect recogniser of forms.
"""

import numpy as np

from islr.data.labels import FormTable, form_hits, label_ceiling
from islr.data.manifest import Manifest
from islr.evaluation.intervals import Interval, bootstrap
from islr.evaluation.metrics import signer_clusters
from islr.evaluation.predictions import Predictions
from islr.evaluation.results import Provenance, Result

CEILING = "label_ceiling"


def form_results(
    predictions: Predictions, name: str, manifest: Manifest, split: str, provenance: Provenance
) -> list[Result]:
    """Return the records of the clips that have a form.

    There are none where labels and forms are the same thing, or where no training clip has both.

    Args:
        predictions: The ranked classes of each clip of `split`.
        name: Row name of the run.
        manifest: The whole corpus; its training split shows which words a form has.
        split: The scored split.
        provenance: Where the predictions come from; its `cluster` names the unit that intervals draw.

    Returns:
        Metrics `original_top1`, `same_form_top1`, `revised_top1` (see `islr.data.labels.form_hits`) and
        `label_ceiling_top1`, each also as top-5; n counts the clips that have a form.
    """
    forms = {clip.clip_id: clip.form for clip in manifest if clip.split == split}
    rows = [row for row, clip_id in enumerate(predictions.clip_ids) if forms.get(clip_id)]
    tied = any(clip.split == "train" and clip.form and clip.label is not None for clip in manifest)
    if not rows or not tied:
        return []
    table = FormTable.count(manifest)
    if table.is_trivial:
        return []
    hits = form_hits(
        table,
        [predictions.ranked[row] for row in rows],
        [predictions.classes[row] for row in rows],
        [forms[predictions.clip_ids[row]] for row in rows],
    )
    scored = {predictions.clip_ids[row] for row in rows}
    ceiling = label_ceiling(manifest.replace(c for c in manifest if c.clip_id in scored), table, split)
    signers = signer_clusters(predictions) if provenance.cluster == "signer" else None
    clusters = [signers[row] for row in rows] if signers else None
    intervals = {metric: bootstrap(np.asarray(right), clusters=clusters) for metric, right in hits.items()}
    intervals |= {f"{CEILING}_top{k}": Interval(ceiling[f"top{k}"], None, None, "") for k in (1, 5)}
    return [interval.record(name, metric, len(rows), provenance) for metric, interval in intervals.items()]
