"""Evaluation: one value per prompt, always."""
