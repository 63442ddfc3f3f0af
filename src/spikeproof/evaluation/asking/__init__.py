"""How a model is asked: a callable as a model, in whole blocks, and what it must not depend on."""
