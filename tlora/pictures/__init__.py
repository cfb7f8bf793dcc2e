"""Pictures and captions as they lie on disk: pillow and numpy only."""
