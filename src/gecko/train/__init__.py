"""Unified rows to a model."""
