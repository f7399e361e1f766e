"""The kinds of corpora: isolated signs, continuous signing, whole-body actions."""
