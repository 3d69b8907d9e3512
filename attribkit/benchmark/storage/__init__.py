"""What is kept of a run, and that it is of this run."""
