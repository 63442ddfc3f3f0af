"""Commands on the output directories of studies: how far they are, what they hold, what moved."""
