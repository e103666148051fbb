"""Filters, one file per method; the paper stands on top of each."""
