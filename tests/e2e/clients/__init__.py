"""Foreign HTTP clients, each made to do the same things, so that one test can put all to work."""
