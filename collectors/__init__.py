"""Recording inside a training job: a reserved name, nothing here yet.

The helpers that start and stop profilers around a training loop come with a later version. Until
then ``README.md`` says how to record a good trace with torch.profiler itself.
"""
