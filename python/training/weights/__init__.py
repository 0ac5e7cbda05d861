"""Weights in files, of this project and of others: read without running anything, checked, renamed, fitted to a model."""
