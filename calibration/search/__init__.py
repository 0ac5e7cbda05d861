"""Which layers to quantise: the fastest INT8 model that keeps the accuracy, decided by measurement on the engine."""
