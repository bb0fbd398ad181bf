"""One layer: every way to compute it, held to a float64 reference, and timed."""
