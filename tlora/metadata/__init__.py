"""What an adapter is and says of itself, without torch."""
