"""Offline work: what the shipped weights are trained on, and how."""
