"""Checks before a long run, one file each; `subject.py` describes the run under check."""
