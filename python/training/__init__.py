"""Training of small DETR detectors: models, losses, data, the loop, checkpoints and export. Needs the extra `train`."""
