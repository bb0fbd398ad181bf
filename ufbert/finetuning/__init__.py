"""The finetuning recipe: GLUE tasks and labelled files, one classification or regression head."""
