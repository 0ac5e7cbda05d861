"""Detectors: backbones, encoders, decoders, and the families they are put together into."""
