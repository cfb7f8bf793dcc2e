"""T-LoRA for FLUX.1: tensors in, tensors out. Knows nothing of pipelines, stores or trackers."""
