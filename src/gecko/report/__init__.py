"""Run directory → one HTML file that tells a reader what was made, from what, and whether it is better."""
