"""Few-shot: how much is read with 1, 5 or 10 labelled signs of each class.

Training signs are drawn from the fold's training groups, several times, and averaged. The classifier is the
nearest class mean (cosine; the prototypes of Snell et al. 2017, 1703.05175): it has nothing to tune, which so few
signs could not do. The layer is the linear probe's choice, so the numbers say how many signs the read-out needs
once the layer is known. A class with fewer training signs gives all it has.
"""

import numpy as np

from probe.analyses.material import Material, by_group, unit
from probe.findings import Finding
from probe.fitting import UNSCORED, standardise

ANALYSIS = "few_shot"


def few_shot(material: Material) -> list[Finding]:
    """Balanced accuracy for each number of signs per class."""
    shots, draws = material.config.shots, material.config.few_shot_draws
    predicted = {shot: [np.full(material.linear.truth.shape, UNSCORED) for _ in range(draws)] for shot in shots}
    for part in material.parts():
        for layer in np.unique(part.layers).tolist():
            x = standardise(material.layers[layer], part.train)
            for f in np.flatnonzero(part.layers == layer).tolist():
                train, test = (rows[part.labels[f, rows] >= 0] for rows in (part.train, part.test))
                if not len(train):
                    continue
                signs, of_row = np.unique(material.groups[train], return_inverse=True)
                means = by_group(x[train], of_row, len(signs))  # [signs, D]
                # A homophone group has one label of each feature but for ambiguous ones: then its first clip's.
                labels = part.labels[f, train][np.unique(of_row, return_index=True)[1]]
                for shot in shots:
                    for draw in range(draws):
                        rng = np.random.default_rng([material.seed, 8, part.number, f, shot, draw])
                        chosen = draw_signs(labels, shot, rng)
                        predicted[shot][draw][f, test] = nearest_class(x[test], means[chosen], labels[chosen])
    return [
        finding
        for shot in shots
        for finding in material.classified(
            ANALYSIS, predicted[shot], setting=f"{shot} sign{'s' * (shot > 1)} per class"
        )
    ]


def draw_signs(labels: np.ndarray, shot: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `shot` positions of each label, drawn without replacement."""
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:shot] for label in np.unique(labels)])


def nearest_class(queries: np.ndarray, signs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label of the class whose mean over signs `[n, D]` has the greatest cosine with each query."""
    classes, of_sign = np.unique(labels, return_inverse=True)
    prototypes = unit(by_group(signs, of_sign, len(classes)))
    return classes[(unit(queries) @ prototypes.T).argmax(1)]
