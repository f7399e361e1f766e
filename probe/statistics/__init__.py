"""Scores, bootstrap draws, dependence between folds, and the simulation of their coverage."""
