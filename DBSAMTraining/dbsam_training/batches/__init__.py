"""From stored samples to prompted and augmented batches."""
