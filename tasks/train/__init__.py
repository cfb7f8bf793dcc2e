"""Stage: train the adapter on cached latents and captions."""
