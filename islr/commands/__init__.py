"""The commands of `islr`, by group. They import inside their functions, so that `--help` answers at once."""
