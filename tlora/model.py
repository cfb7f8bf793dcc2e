"""What versions registered before the rooms were built import by this name; `tlora.flux.model` is its home."""

from tlora.flux.model import load_scheduler as load_scheduler
from tlora.flux.model import load_transformer as load_transformer
from tlora.flux.model import load_vae as load_vae
