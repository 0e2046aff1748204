"""Human-labelled data of each kind made into unified rows."""
