"""How calibration sets are chosen, one module per idea; `calibration.sampling` is the door."""
