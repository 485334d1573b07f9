"""The embedded policy reader: a small model for the CPU that reads what a policy says and scores a text against it."""
