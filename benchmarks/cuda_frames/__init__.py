"""What surrounds a network on a CUDA device, measured by one command; see `python -m benchmarks.cuda_frames --help`."""
