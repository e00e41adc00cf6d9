"""The Segment Editor effect of DB-SAM."""
