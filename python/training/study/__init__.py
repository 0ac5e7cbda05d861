"""Fair comparison of training methods: the same data, seeds and budget for each, judged by one protocol."""
