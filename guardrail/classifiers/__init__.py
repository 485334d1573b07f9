"""Classifiers, one adapter a file; `guardrail.assembly` chooses by name."""
