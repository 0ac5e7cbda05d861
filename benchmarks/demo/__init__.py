"""The demo: a dataset drawn by the project itself, taken from training to verified detections, and a report of it."""
