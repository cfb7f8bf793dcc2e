"""Stage: encode every distinct caption once, and apart from them every evaluation prompt, on the CPU."""
