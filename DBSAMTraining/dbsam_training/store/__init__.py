"""The store of training samples: its format, and how it is cut from data sets."""
