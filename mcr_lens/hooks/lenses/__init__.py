"""Lenses: observers that read a depth out through the model's own last step."""
