"""The command `dbsam`."""
