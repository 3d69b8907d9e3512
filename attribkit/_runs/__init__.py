"""One run of a method, metric or visualizer: validate the input, run it, check and return the result."""
