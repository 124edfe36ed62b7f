"""Speech tokenizers: 16 kHz audio in, tokens on a frame clock out."""
