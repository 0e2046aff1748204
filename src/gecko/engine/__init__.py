"""Engines: run a stage's pure functions over its batches, in this process, in several, or on a Ray cluster."""
