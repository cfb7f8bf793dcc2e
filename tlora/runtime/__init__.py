"""What any command needs to behave: settings from YAML, whole files, stop requests, progress, the device lock, disk."""
