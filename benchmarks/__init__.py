"""What is claimed about speed and memory, side by side with others: `python -m benchmarks.<name>`, and `--smoke` to see it run.

Machines are noisy: contenders take turns within one run, and what counts is the ratio of their medians.
"""
