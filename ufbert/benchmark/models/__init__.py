"""Whole models: the encoder beside other software, and a training step."""
