"""Conversions: an ANN is trained, and its weights make a spiking network."""
