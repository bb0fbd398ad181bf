"""The pretraining recipe: masked language modelling over a budget, resumable at any step."""
