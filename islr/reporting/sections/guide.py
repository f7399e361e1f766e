"""Explanatory texts of every report: how to read a probe, and the glossary."""

from islr.reporting.document.blocks import Prose

GUIDE = Prose(
    heading="How to read a probe",
    items=(
        (
            "What a probe is.",
            "The encoder is frozen, and a linear classifier on its features predicts one phonological feature of the "
            "sign: its handshape, its location, its movement. A probe shows what the representation encodes linearly; "
            "information in another form may be there without being found.",
        ),
        (
            "Unseen signs are the headline.",
            "All clips of a sign share its phonology. A probe that was trained on a sign can therefore predict its "
            "features by recognising the sign, so a high score on seen signs may reflect sign identity instead of "
            "phonology. On unseen signs this shortcut is not available.",
        ),
        (
            "Balanced accuracy.",
            "The mean over classes of the accuracy within each class. Always predicting the most frequent class scores "
            "1 / classes, whatever the class sizes, so compare each column with the majority row.",
        ),
        (
            "Random initialisation is the control.",
            "The features of an untrained network preserve much of the picture, and a probe can use it. Only what "
            "exceeds the random initialisation of the same encoder was learned.",
        ),
        (
            "Intervals are over signs.",
            "Clips of one sign are not independent, so the bootstrap draws whole signs, and the interval is widened "
            "because each sign also serves to train probes for the others. Intervals over clips would be about half as "
            "wide, and too narrow. They cover the choice of signs; not that of signers, nor of the encoder's seed.",
        ),
        (
            "Multiple comparisons.",
            "A hollow mark shows that the 95 % interval of the paired difference excludes zero in that cell alone; of "
            "twenty cells without any effect about one gets a mark. A filled mark shows that the difference is "
            "significant after Holm's correction for the number of comparisons.",
        ),
        (
            "What does not follow.",
            "That a feature can be decoded does not show that the recogniser uses it. Features are also correlated: "
            "handshape nearly determines selected fingers, flexion, spread and thumb.",
        ),
    ),
)

GLOSSARY = Prose(
    heading="Terms used in this report",
    folded=True,
    items=(
        (
            "95 % confidence interval (CI).",
            "Computed by bootstrap: the test clips are resampled with replacement thousands of times, and the interval "
            "holds the middle 95 % of the resulting scores. It shows how much the score would vary with another sample "
            "of such clips.",
        ),
        (
            "Paired difference.",
            "Two models are compared clip by clip on the same clips. This is more sensitive than comparing their "
            "intervals, which may overlap although the difference is significant.",
        ),
        (
            "Holm's correction.",
            "Among many comparisons some are significant by chance. Holm's correction raises the p-values so that the "
            "probability of even one false claim in the table stays below 5 %.",
        ),
        (
            "Random initialisation.",
            "The same encoder, fine-tuned or probed in the same way, without any pre-training.",
        ),
        (
            "Per class.",
            "The mean of the accuracies of the individual signs, so that frequent signs do not count more than others.",
        ),
        (
            "Fingerprint.",
            "A hash of the list of clips and labels of a split, whether or not their files were present. Equal "
            "fingerprints mean the same test set.",
        ),
    ),
)
