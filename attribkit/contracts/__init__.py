"""What a plugin author reads: Method, Metric, Visualizer and their results."""
