"""How the embedded base model was made: scenes, tokenizers, pretraining. Never imported by the pipeline."""
