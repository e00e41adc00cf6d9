"""What the Segment Editor effect is made of."""
