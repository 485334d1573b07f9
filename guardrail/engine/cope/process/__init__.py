"""The engine in a process of its own: several workers share one over a Unix socket, and a supervisor brings it back when it dies."""
