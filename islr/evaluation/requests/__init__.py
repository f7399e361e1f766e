"""What `islr evaluate` can score: a finished run, the fusion of several, or a file of predictions."""
