"""Combinations of a network, a precision, a backend and a device that are known to fail or to be wrong."""
