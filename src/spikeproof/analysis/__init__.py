"""Analysis: what spikes do, on clean and on attacked images."""
