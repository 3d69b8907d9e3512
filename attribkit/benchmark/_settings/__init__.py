"""The configuration of a benchmark, its checks, and the plan of the work."""
