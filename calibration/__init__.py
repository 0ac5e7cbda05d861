"""Calibration: turn a float bundle into an INT8 one, and prove or refuse it on the engine that ships."""
