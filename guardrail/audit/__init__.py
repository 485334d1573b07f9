"""The audit store: one record for each decision, chained so that no change, removal or reordering goes unseen."""
