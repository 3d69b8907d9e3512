"""Progress of loops, and short representations of objects."""
