"""Whether any stage would refuse params.yaml: `python -m tasks.check_settings`. Not a stage."""
