"""Signs rendered from phonology: lexicon -> kinematics -> pixels and exact poses.

Kinds: `isolated` signs (WLASL's list), `continuous` signing (OpenASL's list, hidden glosses) and whole-body `actions`
without signs (Kinetics' list). Difficulties are described in `difficulty.py`.

What a result on a corpus has to be compared with: its nearest-neighbour baselines over unseen signers, here for 48
signs x 10 signers at 112 px (480 clips, chance 2.1 %), and how much MediaPipe Holistic (0.10.21, complexity 1) finds
at 256 px in every second clip of 8 signs x 6 signers:

    islr synth OUT --difficulty D --signs 48 --reps 1 --size 112; python -m islr.data.synth.validate OUT

| difficulty | exact poses | pixels | body found | hand in the picture found, left and right |
|---|---|---|---|---|
| easy | 93.8 % | 67.7 % | 100 % of frames | 54 % and 70 % |
| medium | 93.8 % | 43.5 % | 99 % | 59 % and 71 % |
| hard | 93.1 % | 10.0 % | 100 % | 58 % and 51 % |

What the poses hold of each feature of unseen signs, of 2,000 rows of ASL-LEX 2.0 by one signer (medium), as balanced
accuracy of a linear reader: 96 % for major location, 97 % for wrist twist, 93 % for repetition, 83 % for movement (8
levels), 71 % for selected fingers (9), 74 % for flexion (8), 83 % for sign type (6), 40 % for handshape (43), 83 % for
contact. In the built-in lexicon contact is the exception: hand and place are 5 cm apart without it, and a linear
reader of poses tells that apart in 60 % only, where the others have 68 to 98 %.
"""

from islr.data.synth.coverage import Coverage, coverage, fallbacks, summary
from islr.data.synth.design import VARIANTS, built_in_lexicon
from islr.data.synth.lexicon import Sign, read_lexicon, write_lexicon
from islr.data.synth.options import SynthOptions
from islr.data.synth.write import write_corpus

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
