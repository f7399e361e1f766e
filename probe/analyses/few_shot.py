"""Few-shot classification from 1, 5 or 10 labelled signs of each class.

Training signs are drawn from the fold's training groups, several times, and the scores averaged. The classifier is
the nearest class mean (cosine; prototypes of Snell et al. 2017, 1703.05175): it has no hyper-parameter, which so few
signs could not tune. The layer is the linear probe's choice, so the numbers say how many signs a classifier needs
once the layer is known. A class with fewer training signs contributes all of them.
"""

import numpy as np

from probe.analyses.context import AnalysisContext, by_group, unit
from probe.findings import Finding
from probe.fitting import standardise

ANALYSIS = "few_shot"


def few_shot(context: AnalysisContext) -> list[Finding]:
    """Compute balanced accuracy for each number of signs per class."""
    shots, draws = context.config.shots, context.config.few_shot_draws
    predicted = {shot: [context.unscored() for _ in range(draws)] for shot in shots}
    for fold in context.folds():
        for layer, features in fold.by_layer():
            x = standardise(context.layers[layer], fold.train)
            for f in features:
                train, test = (rows[fold.labels[f, rows] >= 0] for rows in (fold.train, fold.test))
                if not len(train):
                    continue
                signs, of_row = np.unique(context.groups[train], return_inverse=True)
                means = by_group(x[train], of_row, len(signs))  # [signs, D]
                # A sign group has one label of each feature, unless it is ambiguous: then that of its first clip.
                labels = fold.labels[f, train][np.unique(of_row, return_index=True)[1]]
                for shot in shots:
                    for draw in range(draws):
                        rng = np.random.default_rng([context.seed, 8, fold.number, f, shot, draw])
                        chosen = draw_signs(labels, shot, rng)
                        predicted[shot][draw][f, test] = nearest_class(x[test], means[chosen], labels[chosen])
    settings = {shot: f"{shot} sign{'s' * (shot > 1)} per class" for shot in shots}
    return [
        finding for shot in shots for finding in context.classified(ANALYSIS, predicted[shot], setting=settings[shot])
    ]


def draw_signs(labels: np.ndarray, shot: int, rng: np.random.Generator) -> np.ndarray:
    """Draw up to `shot` positions of each label without replacement."""
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:shot] for label in np.unique(labels)])


def nearest_class(queries: np.ndarray, signs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the label of the class whose mean over signs `[n, D]` has the greatest cosine with each query."""
    classes, of_sign = np.unique(labels, return_inverse=True)
    prototypes = unit(by_group(signs, of_sign, len(classes)))
    return classes[(unit(queries) @ prototypes.T).argmax(1)]
