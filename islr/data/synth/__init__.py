"""Signs rendered from phonology: lexicon -> kinematics -> pixels and exact poses."""

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
