"""A module per verb of the command line, with `add_options` and `run`. They alone print; what is heavy is loaded only to run."""
