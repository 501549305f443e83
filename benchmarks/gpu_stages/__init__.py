"""The stages of `benchmarks/gpu.py`: what is found out on a GPU, the most important first."""
