"""Learning rules: how the weights of a network come about."""
