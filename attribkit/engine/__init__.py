"""How a model is run: batches, shared forward passes, interventions, backward rules."""
