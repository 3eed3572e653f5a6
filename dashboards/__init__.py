"""Interactive pages over analysed runs: the Dash application behind ``tracelens dashboard``.

The way of a page: what was opened (`source`) is read by a job on a thread of its own (`jobs`) into
a `source.RunView`, which holds the documented JSON report and the tables that pages need; a page
turns that into components, a figure (`figures`) is a pure function of arrays. Where you are (page,
run, rank, step) is the URL and nothing else (`query`).
"""
