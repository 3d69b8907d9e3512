"""The base classes that plugin authors derive from (Method, Metric, Visualizer), and the results of their runs."""
