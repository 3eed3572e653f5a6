"""One module a kind of change: a model in, a model out, the way DeepSpeed would issue it."""
