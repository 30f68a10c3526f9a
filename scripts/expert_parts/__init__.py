"""Parts of ``scripts/train_expert.py`` and ``scripts/measure_experts.py``."""
