"""Weights in files, ours and others': read without running anything, renamed, checked, put into a model."""
