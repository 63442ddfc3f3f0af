"""Attacks that follow gradients, by the names of the papers."""
