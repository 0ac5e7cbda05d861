"""What the gate looks at, one module per kind of evidence; `calibration.verify` puts it together."""
