"""A binary classifier out of a causal language model: policies' KV state stays resident, any mix of requests is one packed forward."""
