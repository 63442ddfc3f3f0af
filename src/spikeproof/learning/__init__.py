"""Learning rules: how the weights of a network are trained."""
