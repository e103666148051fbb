"""The built-in strategies, one small table each."""
