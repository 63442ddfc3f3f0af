"""Checks on data and their files: folders, numbers of examples, clocks, and examples nearly the same."""
