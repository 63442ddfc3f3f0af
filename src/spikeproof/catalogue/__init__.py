"""The catalogue: every name that a study may use, and saved models, which are written in these names."""
