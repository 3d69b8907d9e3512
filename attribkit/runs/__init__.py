"""One attribution, one measurement, one visualization: checks, run, result."""
