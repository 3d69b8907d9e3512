"""Methods on a CNN without attention: those that can answer, and those that must refuse."""

from attribkit import registry

NEED_ATTENTION = {"attention", "attention_rollout", "gradient_rollout", "attention_gates"}
QUICK = {"rise": {"masks": 48, "cells": 4}}  # options where the default takes long
ANSWERING = {name: cls(**QUICK.get(name, {})) for name, cls in registry.methods().items() if name not in NEED_ATTENTION}
