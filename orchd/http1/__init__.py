"""HTTP/1.1 by hand: h11 parses and frames, this room decides. It knows nothing of models or GPUs."""
