"""The parts of DB-SAM, one file per box of the paper's figure."""
