"""Signals and fits: what is computed once."""
