"""From a volume and a prompt to what the network sees."""
