"""LoRA against T-LoRA on one picture, at equal concept fidelity: `python -m benchmarks.comparison`, or `make compare`.

Methods learn at different speeds, so a comparison at equal steps says little: it rewards whoever has learnt least. Every run is
measured at several steps, and methods are compared where they show the concept equally well.

Named before anything was run: the primary measure is **prompt following at matched fidelity**, T-LoRA minus LoRA. Copying and how
much of the base's other materials survives, at the same fidelity, are secondary.
"""
