"""Stage: draw the base's own pictures of other things, once, to be mixed into training; off as shipped."""
