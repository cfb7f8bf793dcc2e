"""The base model: which one, whether it is here, the one door to diffusers, and what its encoders made."""
