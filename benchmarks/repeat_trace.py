"""Make a large trace by repeating a real one, byte for byte but for times and ids.

Every copy is moved in time behind the one before it; correlation, External id, flow id, sequence
number, event index and ProfilerStep numbers are moved too, so that each copy is linked within
itself as the original was. The layout (one field a line, spaces) stays the original's, since
readers that work by line or by regular expression feel it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: The numbers of an event that a copy moves. Values <= 0 mean "none" and stay, except times.
SLOT = re.compile(
    r'"(?P<key>ts|correlation|External id|external id|Ev Idx|Sequence number|id)":\s*'
    r'"?(?P<number>-?\d+(?:\.\d+)?)|ProfilerStep#(?P<step>\d+)'
)


@dataclass(frozen=True)
class Template:
    """A trace cut into what is written once and what is repeated.

    `once` are the texts of metadata events. `texts` and `slots` alternate: text, number, text ...;
    a slot is (key, number, decimals). `period_us` is how far copies lie apart, `steps` how many
    step numbers a copy takes, `ids` how many ids.
    """

    head: str
    once: list[str]
    texts: list[str]
    slots: list[tuple[str, int, int]]
    tail: str
    period_us: int
    steps: int
    ids: int
    events: int


def read_text(path: Path) -> str:
    """A trace's JSON text, unpacked."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8", errors="replace") as f:
        return f.read()


def split_events(text: str) -> tuple[str, list[tuple[str, dict]], str]:
    """Text before the events, (text, value) of each event, text after them."""
    decoder = json.JSONDecoder(strict=False)
    start = re.search(r'"traceEvents"\s*:\s*\[', text)
    at = start.end() if start else text.index("[") + 1
    head, events = text[:at], []
    gap = re.compile(r"[\s,]*")
    while text[at := gap.match(text, at).end()] != "]":
        value, end = decoder.raw_decode(text, at)
        events.append((text[at:end], value))
        at = end
    return head, events, text[at:]


def make_template(text: str, *, step_markers: bool = True) -> Template:
    """Find what a copy has to change.

    Parameters
    ----------
    text : str
        The original trace.
    step_markers : bool
        False leaves the ProfilerStep ranges out.
    """
    head, events, tail = split_events(text)
    is_once = [
        v.get("ph") == "M" or v.get("cat") == "Trace" or v.get("ph") == "i" for _, v in events
    ]
    once = [t for (t, _), o in zip(events, is_once, strict=True) if o]
    body = [(t, v) for (t, v), o in zip(events, is_once, strict=True) if not o]
    if not step_markers:
        body = [(t, v) for t, v in body if not str(v.get("name")).startswith("ProfilerStep")]
    timed = [(float(v["ts"]), float(v.get("dur", 0))) for _, v in body if v.get("ph") == "X"]
    span = max(ts + dur for ts, dur in timed) - min(ts for ts, _ in timed)
    texts, slots, last = [], [], 0
    joined = ",\n  ".join(t for t, _ in body)
    for m in SLOT.finditer(joined):
        group = "step" if m["step"] else "number"
        number = m[group]
        decimals = len(number.partition(".")[2])
        slots.append((m["key"] or "step", int(number.replace(".", "")), decimals))
        texts.append(joined[last : m.start(group)])
        last = m.end(group)
    texts.append(joined[last:])
    steps = {n for key, n, _ in slots if key == "step"}
    ids = max((n for key, n, _ in slots if key not in ("ts", "step")), default=0)
    return Template(
        head=head,
        once=once,
        texts=texts,
        slots=slots,
        tail=tail,
        period_us=int(span) + 10,
        steps=max(steps) - min(steps) + 1 if steps else 0,
        ids=ids + 1,
        events=len(body),
    )


def copy_text(t: Template, k: int) -> str:
    """The events of copy `k`."""
    parts = [t.texts[0]]
    for (key, number, decimals), text in zip(t.slots, t.texts[1:], strict=True):
        if key == "ts":
            n = number + k * t.period_us * 10**decimals
            number_text = f"{n // 10**decimals}.{n % 10**decimals:0{decimals}d}" if decimals else n
        elif key == "step":
            number_text = number + k * t.steps
        else:
            number_text = number + k * t.ids if number > 0 else number
        parts.append(f"{number_text}{text}")
    return "".join(parts)


def pieces(t: Template, copies: int) -> Iterator[str]:
    """The text of the large trace, piece by piece."""
    yield t.head + "\n  "
    for k in range(copies):
        yield copy_text(t, k) + ",\n  " * (k + 1 < copies or bool(t.once))
    yield ",\n  ".join(t.once) + "\n  " + t.tail


def repeat(source: Path, target: Path, megabytes: float, *, step_markers: bool = True) -> int:
    """Write `target` of at least so many MB (10**6 bytes); returns the number of copies."""
    template = make_template(read_text(source), step_markers=step_markers)
    one = len(copy_text(template, 1).encode())
    copies = max(1, -(-int(megabytes * 1e6) // one))
    with target.open("w", encoding="utf-8") as f:
        for piece in pieces(template, copies):
            f.write(piece)
    return copies


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="trace to repeat (.json, .json.gz, .json.xz)")
    parser.add_argument("target", type=Path, help="file to write (.json)")
    parser.add_argument("--megabytes", type=float, default=300, help="at least (default: 300)")
    parser.add_argument("--no-step-markers", action="store_true", help="leave ProfilerStep out")
    a = parser.parse_args()
    copies = repeat(a.source, a.target, a.megabytes, step_markers=not a.no_step_markers)
    print(f"{a.target}: {a.target.stat().st_size / 1e6:.0f} MB, {copies} copies")


if __name__ == "__main__":
    main()
