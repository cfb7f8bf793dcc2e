"""`tlora infer`: one adapter or several, on any card."""
