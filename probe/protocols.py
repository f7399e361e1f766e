"""What the numbers of a probing run estimate, and the name under which records carry it.

Protocol probe/1. Splits are fixed before any feature is computed and are saved to files; the headline split tests
signs that the probe was not trained on. Features are standardised on a fold's training clips; penalty and layer are
chosen inside them, by macro-F1 on held-out sign groups (signers or clips, for seen signs); the probe is then fitted
on all training clips; every sign group is tested once and the predictions of all folds are pooled. Missing labels are
masked.

A number estimates the expected score of this procedure over samples of this many signs from the population that the
corpus's signs were drawn from, when it is trained on four fifths of them and tested on the rest (`seen_sign`: on the
official test part). The interval covers the choice of signs: sign groups are resampled, and the result is widened
because signs train each other's probes (`probe.statistics.dependence`). It does not cover other signers, other
recordings or other seeds of the encoder.
"""

PROTOCOL = "probe/1"
