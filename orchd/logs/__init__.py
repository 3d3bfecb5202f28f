"""What the daemon tells its operator: one event a line, out of the event loop's way."""
