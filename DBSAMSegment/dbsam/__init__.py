"""DB-SAM: box-prompted segmentation of medical images."""
