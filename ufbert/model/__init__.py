"""What a model is: its config, the fast feedforward layer, attention, the encoder, heads and the card."""
