"""k-NN classification: a clip of an unseen sign gets the label of its nearest training clips (cosine).

Nothing is trained and k is not tuned: every k is reported. The clips of one sign lie together, so a k below the
number of clips per sign mostly uses the single nearest sign.
"""

import numpy as np
import torch

from probe.analyses.context import AnalysisContext, unit
from probe.findings import Finding
from probe.fitting import standardise

ANALYSIS = "knn"
_QUERIES = 1024  # at once, so that memory stays at queries x gallery


def knn(context: AnalysisContext) -> list[Finding]:
    """Compute balanced accuracy for each k, with the fold's training clips as gallery, at the linear probe's layer."""
    counts = context.config.neighbours
    predicted = {k: context.unscored() for k in counts}
    for fold in context.folds():
        for layer, features in fold.by_layer():
            x = unit(standardise(context.layers[layer], fold.train))
            for f in features:
                labels = fold.labels[f]
                gallery, queries = (rows[labels[rows] >= 0] for rows in (fold.train, fold.test))
                if not len(gallery):
                    continue
                for start in range(0, len(queries), _QUERIES):
                    some = queries[start : start + _QUERIES]
                    near, similarity = nearest(x[some], x[gallery], max(counts))
                    for k in counts:
                        predicted[k][f, some] = vote(labels[gallery][near[:, :k]], similarity[:, :k])
    return [finding for k in counts for finding in context.classified(ANALYSIS, [predicted[k]], setting=f"k={k}")]


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the gallery rows most similar to each query, best first, and their cosines, `[n, min(k, gallery)]`."""
    similarity = torch.from_numpy(queries) @ torch.from_numpy(gallery).T
    top = similarity.topk(min(k, len(gallery)), dim=1)
    return top.indices.numpy(), top.values.numpy()


def vote(labels: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Return the commonest label of each row `[n, k]`; of equally common ones that with the greater similarity."""
    size = int(labels.max()) + 1
    rows = np.repeat(np.arange(len(labels)), labels.shape[1])
    count, weight = np.zeros((len(labels), size)), np.zeros((len(labels), size))
    np.add.at(count, (rows, labels.ravel()), 1)
    np.add.at(weight, (rows, labels.ravel()), similarity.ravel())
    common = count == count.max(1, keepdims=True)
    return np.where(common, weight, -np.inf).argmax(1)
