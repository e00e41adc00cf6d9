"""How a request is computed."""
