"""Policies: Markdown files in, validated immutable values out.

`document` parses, `lint` advises, `prompt` renders what a model reads, `registry` loads and publishes sets, `watch` keeps them fresh.
"""
