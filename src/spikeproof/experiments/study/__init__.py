"""Study files: what is to be computed, and the cells that it takes."""
