"""Random faults under load, against a real daemon: what ./tools/soak runs."""
