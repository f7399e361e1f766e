"""Helpers of the tests; no test imports from another test."""
