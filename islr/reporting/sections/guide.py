"""The plain-words texts that stand in every report: how to read probes, and what the words mean."""

from islr.reporting.document.blocks import Prose

GUIDE = Prose(
    heading="How to read a probe",
    items=(
        (
            "What it is.",
            "The encoder is frozen. A linear classifier on its features predicts one phonological "
            "feature of the sign: its handshape, its location, its movement. What a linear classifier "
            "can read is laid out openly in the representation; what it cannot read may still be there "
            "in another form.",
        ),
        (
            "Unseen signs are the headline.",
            "Every clip of a sign carries the same phonology. If a sign was in the probe's training set, "
            "recognising the sign is enough to look its features up, so a high score on seen signs may "
            "be sign identity and no phonology. On unseen signs that shortcut is closed.",
        ),
        (
            "Balanced accuracy.",
            "The mean over classes of the share read correctly in each class. Always naming the "
            "commonest class scores 1 / classes, whatever the class sizes, so compare each column with "
            "the majority row.",
        ),
        (
            "Random initialisation is the bar to beat.",
            "Untrained networks keep much of the picture, and a probe can use it. Only what is above the "
            "random initialisation of the same encoder was learnt.",
        ),
        (
            "Intervals are over signs.",
            "Clips of one sign are not independent, so whole signs are drawn in the bootstrap, and the "
            "result is widened because signs train each other's probes. Intervals over clips would be "
            "about half as wide, and wrong. They say how far a number could move with other signs like "
            "these; not with other signers, nor with another seed of the encoder.",
        ),
        (
            "Many cells.",
            "A hollow mark stands where the 95 % interval of the paired difference excludes zero, cell "
            "by cell; among twenty cells without any effect about one would get one. A filled mark "
            "stands where the difference survives Holm's correction for the number of comparisons.",
        ),
        (
            "What does not follow.",
            "That a feature can be read does not say that the recogniser uses it, and features hang "
            "together: handshape nearly determines selected fingers, flexion, spread and thumb.",
        ),
    ),
)

GLOSSARY = Prose(
    heading="Words used",
    folded=True,
    items=(
        (
            "95 % confidence interval (CI).",
            "Made by bootstrap: the test clips are drawn again with replacement, thousands of times, and "
            "the interval holds the middle 95 % of the scores. It says how far the number could move "
            "with another sample of such clips.",
        ),
        (
            "Paired difference.",
            "Two models are compared clip by clip on the same clips, which is sharper than comparing two "
            "intervals: intervals may overlap although the difference is real.",
        ),
        (
            "Holm.",
            "When many comparisons are made some look real by luck. Holm's correction raises the "
            "p-values so that the chance of even one false claim in the table stays below 5 %.",
        ),
        (
            "Random initialisation.",
            "The same encoder, fine-tuned or probed in the same way, without any pre-training.",
        ),
        (
            "Per class.",
            "The mean of the accuracies of the single signs, so that frequent signs do not count more.",
        ),
        (
            "Fingerprint.",
            "A hash of the list of clips and labels of a split, whether their files were present or not. "
            "Equal fingerprints mean the same test set.",
        ),
    ),
)
