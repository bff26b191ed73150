"""The parity harness: every op, on every backend, in every dtype, against its own NumPy reference in float64."""
