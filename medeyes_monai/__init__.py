"""MedEyes as a MONAI extension: vision-language models that learn where to look in medical images."""

__version__ = "0.1.0"
