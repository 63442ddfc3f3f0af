"""Trains: spike trains as times, their distances and their irregularity."""
