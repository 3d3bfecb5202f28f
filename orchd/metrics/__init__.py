"""What an operator can see over time: every series there is, counted, collected and written out."""
