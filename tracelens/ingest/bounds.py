"""How large the parts of a file may be before it is taken for damaged or hostile.

A trace comes from somebody else. These bounds are far above what recorded files need, and a user
who knows the file can raise them all at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on one file, bytes.

    Attributes
    ----------
    unpacked_ratio, unpacked_least : int
        A packed file may unpack to so many times its own size, and always to so much. Recorded
        traces pack 10 to 30 times; deflate at best 1032 (zlib.net/zlib_tech.html), xz and zstd
        many thousands.
    event : int
        Largest stretch without an event boundary. A real event stays below a few MB (python
        stacks, shapes of foreach ops).
    header : int
        Largest header before and tail after the events (deviceProperties, stack frames).
    dictionary : int
        Memory that an xz file may ask for to be unpacked; ``xz -9`` asks for 65 MB (man xz).
    download : int
        Largest Nsight Systems export or report that is copied from a URL to a temporary file.
    """

    unpacked_ratio: int = 100
    unpacked_least: int = 1_000_000_000
    event: int = 2**28
    header: int = 64_000_000
    dictionary: int = 256_000_000
    download: int = 20_000_000_000

    def unpacked(self, packed: int) -> int:
        """What a file of `packed` bytes may unpack to."""
        return max(self.unpacked_least, self.unpacked_ratio * packed)

    def times(self, factor: float) -> Bounds:
        """All bounds so many times as large."""
        return Bounds(*(round(getattr(self, name) * factor) for name in self.__slots__))


BOUNDS = Bounds()
#: What to tell whoever meets one.
HINT = "if you know where the file is from, --raise-limits 10 allows ten times more of everything"
