"""How small policies are taught, for the programs that build, teach and diagnose them."""
