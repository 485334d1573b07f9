"""Classifiers whose model runs on a server: vLLM, OpenAI-compatible servers, Zentropi's label API. One `Api` a file."""
