"""Worker processes that can be killed in the middle of a job, stop signals, and locks between processes."""
