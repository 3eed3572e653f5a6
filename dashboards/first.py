"""The verdict in the page's own HTML: on the screen before any script is there.

The scripts of the components take longer to load than all that is to be said first. They draw the
same at the same place, and `assets/tracelens.js` takes this away when they have.
"""

from __future__ import annotations

from html import escape

from .source import Document
from .verdict import headline, ran, stats


def first(document: Document) -> str:
    """The beginning of the overview of a report, as HTML; names from a trace are text in it.

    Examples
    --------
    >>> _text("<b> & {%config%}")
    '&lt;b&gt; &amp; &#123;%config%&#125;'
    """
    told = headline(document)
    numbers = "".join(
        f'<div class="stat"{_edge(s.color)}><div class="stat-label">{_text(s.label)}</div>'
        f'<div class="stat-value">{_text(s.value)}</div>'
        f'<div class="stat-note">{_text(s.note)}</div></div>'
        for s in stats(document)
    )
    more = f"<p>{_text(told.more)}</p>" if told.more else ""
    return (
        '<div id="first"><div class="first-head">tracelens</div><div class="first-card">'
        f'<div class="first-label">{_text(told.label)}</div><h2>{_text(told.title)}</h2>{more}'
        f'<div class="first-ran">{_text(ran(document))}</div>'
        f'<div class="stats wide">{numbers}</div></div></div>'
    )


def _edge(color: str) -> str:
    return f' style="border-left-color: {color}"' if color else ""


def _text(text: str) -> str:
    """Text as HTML; Dash would fill in what stands in ``{% %}``."""
    return escape(text).replace("{", "&#123;").replace("}", "&#125;")
