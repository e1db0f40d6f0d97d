"""Where prompts come from, and the starter model that is made on the spot."""
