"""Signs rendered from phonology: lexicon -> kinematics -> pixels and exact poses.

Kinds: `isolated` signs (WLASL's list), `continuous` signing (OpenASL's list, hidden glosses) and whole-body `actions`
without signs (Kinetics' list). Difficulties are described in `difficulty.py`.

What a result on a corpus has to be compared with: its nearest-neighbour baselines over unseen signers, here for 48
signs x 10 signers at 112 px (480 clips, chance 2.1 %), and how much MediaPipe Holistic (0.10.21, complexity 1) finds
at 256 px in every second clip of 8 signs x 6 signers:

    islr synth OUT --difficulty D --signs 48 --reps 1 --size 112; python -m islr.synth.validate OUT

| difficulty | exact poses | pixels | body found | hand in the picture found, left and right |
|---|---|---|---|---|
| easy | 96.2 % | 65.0 % | 100 % of frames | 85 % and 82 % |
| medium | 96.2 % | 44.0 % | 99 % | 76 % and 81 % |
| hard | 94.2 % | 7.5 % | 100 % | 54 % and 51 % |

What the poses hold of each feature of unseen signs, as balanced accuracy of a linear reader (nearest neighbour,
1 / levels), by `validate`. Of 2,000 rows of ASL-LEX 2.0 by one signer (medium): handshape 74 % (45, 2), selected
fingers 79 % (61, 11), flexion 93 % (67, 12), sign type 90 % (82, 17), movement 79 % (34, 12), repetition 92 % (71, 50),
major location 95 % (84, 20), minor location 57 % (41, 3), contact 96 % (78, 50), wrist twist 98 % (70, 50). Of the 48
signs of the medium corpus above: handshape 86 % (60, 12), selected fingers 83 % (67, 25), flexion 87 % (60, 25), sign
type 86 % (77, 25), movement 48 % (22, 17), repetition 84 % (58, 50), major location 79 % (71, 20), minor location 67 %
(57, 12), contact 87 % (68, 50), wrist twist 71 % (64, 50).
"""

from islr.synth.coverage import Coverage, coverage, fallbacks, summary
from islr.synth.design import VARIANTS, built_in_lexicon
from islr.synth.lexicon import Sign, read_lexicon, write_lexicon
from islr.synth.options import SynthOptions
from islr.synth.write import write_corpus

__all__ = [
    "VARIANTS",
    "Coverage",
    "Sign",
    "SynthOptions",
    "built_in_lexicon",
    "coverage",
    "fallbacks",
    "read_lexicon",
    "summary",
    "write_corpus",
    "write_lexicon",
]
