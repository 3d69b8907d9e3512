"""Errors, options, axes, inputs and results of a model: what every other package uses."""
