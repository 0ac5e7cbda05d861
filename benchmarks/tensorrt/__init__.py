"""Engines of TensorRT on a device: built, proven and timed by one command; see `python -m benchmarks.tensorrt --help`."""
