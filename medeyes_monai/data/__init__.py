"""Data sets as questions about scenes."""
