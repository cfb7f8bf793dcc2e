"""What versions registered before the rooms were built import by this name; `tlora.flux.spec` is its home."""

from tlora.flux.spec import ModelSpec as ModelSpec
