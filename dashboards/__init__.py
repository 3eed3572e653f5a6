"""Interactive pages over analysed runs: a reserved name, nothing here yet.

The Dash application comes with a later version. Until then ``tracelens analyze RUN --html FILE``
writes one self-contained page.
"""
