"""Bundles in the forms of other servers and pipelines."""
