"""The groups of commands below `islr`; each imports inside its commands, so that `--help` answers at once."""
