"""Stage: draw the base's own pictures of other things, once, or take a folder's, to be mixed into training; off as shipped."""
