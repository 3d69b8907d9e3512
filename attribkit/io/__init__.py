"""Loading models, preprocessing images and reading clips."""
