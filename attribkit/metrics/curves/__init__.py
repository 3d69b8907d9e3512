"""What becomes of the score while an image is taken away, or put back, in the order of a map."""
