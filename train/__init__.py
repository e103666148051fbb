"""Fine-tuning: recipes and the trainer."""
