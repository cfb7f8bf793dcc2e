"""Imported for its effect, before diffusers: keep out of the log what bitsandbytes says while diffusers imports it.

That a kernel of the hub's is not installed, which nothing here uses. The one module that does something when it is imported:
a stage imports diffusers before any of its own lines can run.
"""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
