"""Attacks on spike trains and event streams."""
