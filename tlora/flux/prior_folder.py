"""What lies where in the folder of the base's own pictures, which are mixed into training; without torch."""

PRIOR_LATENTS = "latents"  # a cache of views, as of training pictures; empty where none were drawn
PRIOR_CAPTIONS = "captions"  # a cache of their prompts' embeddings
PRIOR_PICTURES = "pictures"
PRIOR_GRID = "grid.png"  # a few of them
