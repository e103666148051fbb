"""Everything that runs a model over a row."""
