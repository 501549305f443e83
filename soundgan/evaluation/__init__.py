"""How good generated sounds are: classifiers, metrics, and an evaluator of real sounds."""
