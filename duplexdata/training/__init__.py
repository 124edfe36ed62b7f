"""Training on a dataset's rows: supervised fine-tuning, and preference optimisation after it."""
