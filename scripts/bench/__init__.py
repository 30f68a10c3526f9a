"""The parts of ``scripts/bench_engine.py``, one module for each kind of measurement."""
