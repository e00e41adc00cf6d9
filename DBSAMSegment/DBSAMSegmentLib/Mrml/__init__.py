"""What is read from the scene."""
