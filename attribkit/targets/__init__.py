"""What is explained: a score of the outputs of a model."""
