"""What the training panel is made of."""
