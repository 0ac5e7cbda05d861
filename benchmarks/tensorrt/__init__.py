"""TensorRT engines on a device: built, proven, timed by one command; see `python -m benchmarks.tensorrt --help`."""
