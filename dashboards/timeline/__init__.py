"""The timeline: what ran when, on every rank, event by event at any zoom.

`lanes` turns a rank's events into lanes, `lod` answers what a window of a lane looks like in so
many pixels, `wire` packs that for the canvas in ``assets/timeline*.js``, `routes` serves it.
"""
