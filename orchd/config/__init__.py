"""The configuration: one model, one validator that reports every fault at once, and its reading.

``marks``, ``listen``, ``model``, ``shape`` and ``validate`` are pure. ``places``, ``load`` and
``token`` touch files and are given the environment as an argument. Nothing is re-exported here, so
that importing the model never pulls in the modules that do IO.
"""
