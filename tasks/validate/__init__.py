"""Stage: look at every picture and caption, and split them into training and held out."""
