"""Attacks made of other attacks: the worst of several, nested budgets, transfer between models."""
