"""What is looked at before a long run: one file a check, and what a task must tell them (`subject.py`)."""
