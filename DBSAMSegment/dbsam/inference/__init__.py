"""From a model to the mask of a volume."""
