"""Verbs of the command line that have a module of their own: their options, and the calls they stand for."""
