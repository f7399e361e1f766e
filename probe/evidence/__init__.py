"""Evidence for the intervals and the solver: simulations and benchmarks to run by hand."""
