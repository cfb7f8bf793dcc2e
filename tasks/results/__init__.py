"""What `evaluate` leaves, as others read it."""
