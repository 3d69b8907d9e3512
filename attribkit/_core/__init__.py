"""Errors, options, image axes, model inputs and specs, substrates: shared by all other packages."""
