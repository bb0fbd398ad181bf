"""The mathematics of conditional matrix multiplication, and who computes it: one module each, behind `operator`."""
