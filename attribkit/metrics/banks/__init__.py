"""Metrics on perturbations that do not depend on the map: run once for an image, whatever the number of maps."""
