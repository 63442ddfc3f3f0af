"""The catalogue: every name that a study may use, and saved models, whose descriptions use these names."""
