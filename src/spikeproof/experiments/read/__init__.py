"""Reading a store: headline numbers, comparisons and curves from stored cells."""
