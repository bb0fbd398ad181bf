"""Dense feedforward layers distilled into trees; `run` is the way through."""
