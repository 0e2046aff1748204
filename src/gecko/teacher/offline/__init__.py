"""A statistical teacher: no language model, no download. It says of itself what it is: keyphrases, patterns, counts."""
