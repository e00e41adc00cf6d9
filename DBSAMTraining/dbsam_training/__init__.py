"""Training and evaluation of DB-SAM."""
