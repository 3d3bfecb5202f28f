"""HTTP/1.1 by hand: h11 parses and frames, this room decides. No word of models here."""
