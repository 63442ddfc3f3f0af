"""The store as a queue: which cells are free, held, failed or finished, and the worker that takes them."""
