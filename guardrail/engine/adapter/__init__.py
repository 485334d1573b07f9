"""A multilabel adapter: LoRA on a causal language model and a linear head over its last token, one output a category."""
