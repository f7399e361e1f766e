"""Studies: a grid of methods and data regimes, its stages, their cost, and where they run."""
