"""Running a model: batches, shared forward passes, interventions, backward rules."""
