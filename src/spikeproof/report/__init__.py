"""Reports: stored cells become one self-contained page, figures and tables."""
