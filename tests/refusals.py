"""Methods that a CNN without attention must refuse."""

NEED_ATTENTION = {"attention", "attention_rollout", "gradient_rollout", "attention_gates"}
