"""Repair: further attacks on numbers that the audit doubts, of studies and of saved models."""
