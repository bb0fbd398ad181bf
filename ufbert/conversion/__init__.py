"""Foreign checkpoints in and out: readers by family, distillation into trees, export."""
