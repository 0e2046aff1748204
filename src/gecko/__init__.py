"""Gecko: your own compact text-embedding model, distilled from a language model (arXiv:2403.20327)."""
