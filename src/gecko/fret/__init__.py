"""Passages to FRet rows: queries are written, neighbours retrieved, ranked and selected."""
