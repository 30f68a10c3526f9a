"""Verifiable rewards, one small file each."""
