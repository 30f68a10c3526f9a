"""What a run needs before it is started: tokens, passes and memory, from a model's shapes alone."""
