"""Files in and out: images, ROIs, segmentations, pictures."""
