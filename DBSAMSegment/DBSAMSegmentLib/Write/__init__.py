"""How a mask gets into a segment."""
