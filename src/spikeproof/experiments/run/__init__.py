"""Running a study: the store, executors, and the computation of one cell."""
