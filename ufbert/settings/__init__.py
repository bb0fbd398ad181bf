"""What a run is told: the sections of `ufbert.toml` as dataclasses, and TOML in and out."""
