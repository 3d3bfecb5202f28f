"""Servers of OpenAI's API by other makers: which there are, how each is had and started."""
