"""What a model is: its layers, the default one, its attention and its gates."""
