"""Losses that have a student follow teachers, each one module, and the `Distiller` that weighs them."""
