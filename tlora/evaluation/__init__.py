"""What drawn pictures are worth, how sure that is, and which checkpoint to take."""
