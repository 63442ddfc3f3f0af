"""Minimum-norm attacks: the nearest image that fools the model."""
