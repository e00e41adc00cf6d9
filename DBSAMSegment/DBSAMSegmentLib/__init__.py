"""What the DB-SAM module and Segment Editor effect share: MRML geometry, writing segments, the inference thread."""
