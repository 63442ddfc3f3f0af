"""Attacks on answers: noise, random search, and a search over the spike patterns that an encoder can give."""
