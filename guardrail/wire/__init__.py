"""Bytes to parts and back: what clients and upstreams say to each other, without any input or output of its own."""
