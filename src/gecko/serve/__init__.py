"""The model as a search service."""
