"""Worker processes that can be killed in the middle of a job, and stop signals."""
