"""The parts that everything else stands on: no method, no model family, no plugin."""
