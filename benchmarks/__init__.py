"""Numbers, one script a question: `python -m benchmarks` lists them."""
