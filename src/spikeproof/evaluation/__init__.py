"""Evaluation: verdicts per example, suites of attacks, distances, certificates, and sources of gradients."""
