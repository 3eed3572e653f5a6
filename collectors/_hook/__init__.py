"""A folder for PYTHONPATH: Python runs the ``sitecustomize.py`` in it when it starts."""
