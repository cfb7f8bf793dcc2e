"""Who made an adapter, and what may be done with it: keys, signatures, licences."""
