"""Collectives over the ranks of a run and the heartbeat that names a lost one."""
