"""What lies where in the folder of prior pictures, the base's own or a folder's, which are mixed into training; without torch."""

PRIOR_LATENTS = "latents"  # a cache of views, as of training pictures; empty where there are none
PRIOR_SOURCE = "folder"  # in its index: the folder that they are from; missing where the base drew them
PRIOR_CAPTIONS = "captions"  # a cache of their captions' embeddings
PRIOR_PICTURES = "pictures"
PRIOR_GRID = "grid.png"  # a few of them
