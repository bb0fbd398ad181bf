"""What a feedforward layer costs in time, and what it gives in quality: variants pretrained alike and compared."""
