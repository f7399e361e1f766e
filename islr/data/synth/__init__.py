"""Signs rendered from phonology: lexicon -> kinematics -> pixels and exact poses."""

from islr.data.synth.coverage import Coverage, coverage, fallbacks
from islr.data.synth.design import VARIANTS, built_in_lexicon
from islr.data.synth.lexicon import Sign, read_lexicon, write_lexicon
from islr.data.synth.write import SynthOptions, write_corpus

__all__ = [
    "VARIANTS",
    "Coverage",
    "Sign",
    "SynthOptions",
    "built_in_lexicon",
    "coverage",
    "fallbacks",
    "read_lexicon",
    "write_corpus",
    "write_lexicon",
]
