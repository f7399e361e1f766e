"""Checks before a long run: one file a check; `subject.py` says what a task must offer them."""
