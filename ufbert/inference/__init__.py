"""Texts in, predictions out: the pipeline, its tasks, and files of any size."""
