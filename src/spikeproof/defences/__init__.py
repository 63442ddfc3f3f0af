"""Defences: learning rules that make another learning rule train a more robust model."""
