"""What TensorRT before version 11 can be given instead of a Q/DQ model: a calibration cache, or a calibrator."""
