"""Reports: one self-contained page, figures and tables, made from stored cells."""
