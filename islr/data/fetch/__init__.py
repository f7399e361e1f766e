"""Downloads of the videos that a corpus lists, resumable, with one outcome per clip."""
