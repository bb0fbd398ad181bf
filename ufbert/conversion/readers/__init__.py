"""Readers of foreign checkpoints, one file a family, behind `checkpoint`."""
