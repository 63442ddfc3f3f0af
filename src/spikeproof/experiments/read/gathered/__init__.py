"""Tables that are read across the models of a study: natural corruptions, and the grid of transfers."""
