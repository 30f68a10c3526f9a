"""What the tables report."""
