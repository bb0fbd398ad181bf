"""What pretraining, finetuning and distillation share."""
