"""Machinery that turns token ids into scores. Imports torch: only classifiers and training reach in here."""
