"""Attacks that ask for answers: noise, random search, and search over the patterns that a code can give."""
