"""Weights that others published: safe reading of their files and strict import."""
