"""Passages near a query: vectors made once and kept, exact search in bounded memory, approximate indexes on request."""
