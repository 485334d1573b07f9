"""Attacks on the guard by its own makers."""
