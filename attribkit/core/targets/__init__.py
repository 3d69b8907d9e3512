"""What is explained: targets score each image from what the model returned."""
