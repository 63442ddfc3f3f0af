"""Checks on files before they become a data set: folders, numbers of examples, clocks."""
