"""The training run: steps, validation, state, export."""
