"""k-NN: a clip of an unseen sign gets the label of the clips of training signs most like it (cosine).

Nothing is trained and k is not chosen, every k is reported. The clips of one sign lie together, so k below the
number of clips per sign mostly asks the one nearest sign.
"""

import numpy as np
import torch

from probe.analyses.material import Material, unit
from probe.findings import Finding
from probe.fitting import UNSCORED, standardise

ANALYSIS = "knn"
_QUERIES = 1024  # at once, so that memory stays at queries x gallery


def knn(material: Material) -> list[Finding]:
    """Balanced accuracy for each k, gallery = the fold's training clips, at the linear probe's layer."""
    wanted = material.config.neighbours
    predicted = {k: np.full(material.linear.truth.shape, UNSCORED) for k in wanted}
    for part in material.parts():
        for layer in np.unique(part.layers).tolist():
            x = unit(standardise(material.layers[layer], part.train))
            for f in np.flatnonzero(part.layers == layer).tolist():
                labels = part.labels[f]
                gallery, queries = (rows[labels[rows] >= 0] for rows in (part.train, part.test))
                if not len(gallery):
                    continue
                for start in range(0, len(queries), _QUERIES):
                    some = queries[start : start + _QUERIES]
                    near, similarity = nearest(x[some], x[gallery], max(wanted))
                    for k in wanted:
                        predicted[k][f, some] = vote(labels[gallery][near[:, :k]], similarity[:, :k])
    return [finding for k in wanted for finding in material.classified(ANALYSIS, [predicted[k]], setting=f"k={k}")]


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the gallery most similar to each query, best first, and their cosines, `[n, min(k, gallery)]`."""
    similarity = torch.from_numpy(queries) @ torch.from_numpy(gallery).T
    found = similarity.topk(min(k, len(gallery)), dim=1)
    return found.indices.numpy(), found.values.numpy()


def vote(labels: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """The commonest label of each row `[n, k]`; of equally common ones that with the greater similarity in all."""
    size = int(labels.max()) + 1
    rows = np.repeat(np.arange(len(labels)), labels.shape[1])
    count, weight = np.zeros((len(labels), size)), np.zeros((len(labels), size))
    np.add.at(count, (rows, labels.ravel()), 1)
    np.add.at(weight, (rows, labels.ravel()), similarity.ravel())
    common = count == count.max(1, keepdims=True)
    return np.where(common, weight, -np.inf).argmax(1)
