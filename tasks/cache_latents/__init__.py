"""Stage: encode every view of every picture with the VAE, as mean and standard deviation, so that each epoch samples afresh."""
