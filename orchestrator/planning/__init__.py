"""`paceline plan`: what a recipe will need and how fast it can be, from the model's configuration alone."""
