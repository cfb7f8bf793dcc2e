"""Web pages that need nothing beside them: no network, no other file, no framework."""
