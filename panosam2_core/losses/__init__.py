"""Training losses of PanoSAM2."""
