"""Measures what the daemon costs: every row of the table in ``rows``, each against what is measured
in the same run. ``tools/bench`` runs it.
"""
