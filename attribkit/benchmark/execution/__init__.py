"""How units of work are done, and where."""
