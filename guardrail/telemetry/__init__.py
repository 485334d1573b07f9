"""Spans, metrics and log lines about what the guard did. Observers only: nothing here can change a decision."""
