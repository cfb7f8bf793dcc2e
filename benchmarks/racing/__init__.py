"""Does racing recommend what full evaluation does? Real runs of the pocket, kept as scores, and the race replayed on them."""
