"""Quantisers side by side: one float model, one calibration set, one evaluation. `python -m benchmarks.quantisers`."""
