"""``edgedet sweep``: every precision that a bundle can run in on one backend, by accuracy, time and memory."""
