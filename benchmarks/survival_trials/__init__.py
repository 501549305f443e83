"""The trials of `benchmarks/survival.py`: what is done to the program, and what must hold then."""
