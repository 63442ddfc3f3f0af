"""What is checked before files become a data set: places, numbers of examples, clocks."""
