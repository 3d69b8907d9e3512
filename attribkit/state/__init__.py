"""Leaving a model as it was: freezing, snapshots, hooks, random states and locks."""
