"""`make studio`: one page where a person starts, watches, tries, compares and decides; what it does, commands do too."""
