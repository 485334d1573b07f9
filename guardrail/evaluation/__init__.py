"""Offline measuring of classifiers on labelled data."""
