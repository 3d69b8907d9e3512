"""What is asked for, checked, and what there is to do for it."""
