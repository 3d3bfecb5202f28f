"""Puts a real daemon under random faults and load, and judges what it promised. ``tools/soak`` runs
it.
"""
