"""What edgedet costs a small machine: size, memory, start-up."""
