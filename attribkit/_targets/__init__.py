"""Targets: the scores of model outputs that are explained."""
