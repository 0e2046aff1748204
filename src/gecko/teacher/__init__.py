"""One protocol, many language models."""
