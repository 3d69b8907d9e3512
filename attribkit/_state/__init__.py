"""Management of a model's state during explanations: freezing, snapshots, hooks, random states and locks."""
