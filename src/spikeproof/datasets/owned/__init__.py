"""Data sets of the user: images and recordings in common layouts, with a fixed split and a digest."""
