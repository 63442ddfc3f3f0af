"""What every neuron is made of: constants, the equation of one step, resets and synapses."""
