"""Attacks: threat, gradient source, step and schedule, assembled from small parts."""
