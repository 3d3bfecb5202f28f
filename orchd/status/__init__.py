"""``orchd status``: how a daemon stands by its own /health, as a table for people."""
