"""Model → figures: exact retrieval on human judgements, compared query by query with the base model."""
