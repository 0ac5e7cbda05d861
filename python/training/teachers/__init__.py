"""Frozen networks that a student follows: detectors, ONNX files and bundles, vision foundation models; their cache."""
