"""Own test sets: queries in, candidates pooled and marked blind by a person, a BEIR folder out."""
