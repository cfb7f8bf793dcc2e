"""How a stage is run: its command, its state folder, telemetry off."""
