"""What the servers of experts share. Needs the standard library alone, Python 3.8 or later."""
