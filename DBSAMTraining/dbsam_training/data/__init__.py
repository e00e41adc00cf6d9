"""Data sets in the layouts that are known, and their cases."""
