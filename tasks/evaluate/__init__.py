"""Stage: draw with every checkpoint, measure, and recommend one."""
