"""Data sets that are generated when they are needed, from a definition and a seed."""
