"""Make a run of many ranks by repeating the ranks of a real one with their numbers changed.

Rank k is a copy of rank k modulo those there are: its number, the world size, the process groups
and the recorded lists of ranks are those of the larger job (lists of more than 30 ranks are cut as
torch cuts them), and each communication kernel begins up to 0.2 ms (a tenth of its length) later
than in the original and ends when that did, by random numbers from the rank's own seed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from repeat_trace import read_text

#: torch/csrc/profiler/util.cpp, kTruncatLength
_LISTED = 30
#: Later than this on an idle device looks as if another process used it.
_LATE_NS = 200_000
_KERNEL = re.compile(
    r'("name": "nccl(?:Dev)?Kernel[^\n]*\n\s*"ts": )(\d+)\.(\d{3})(, "dur": )(\d+)\.(\d{3})'
)
_INFO = re.compile(r'"distributedInfo": (\{.*?\}\], "nccl_version": "[^"]*"\})')


def written_ranks(world: int) -> str:
    """A list of ranks as torch records it."""
    if world <= _LISTED:
        return str(list(range(world)))
    first = ", ".join(map(str, range(_LISTED)))
    return f"[{first}, ...]"


@cache
def template(path: Path, world: int) -> tuple[str, re.Match[str], list[re.Match[str]]]:
    """A rank's text with the groups of the larger job, its header's place and its kernels'."""
    text = read_text(path)
    text = re.sub(r'("Process Group Ranks": ")\[[^"]*\]', rf"\g<1>{written_ranks(world)}", text)
    text = re.sub(r'("Group size": )\d+', rf"\g<1>{world}", text)
    info = _INFO.search(text)
    if info is None:
        raise SystemExit(f"{path}: no distributedInfo")
    return text, info, list(_KERNEL.finditer(text))


def rank_text(path: Path, rank: int, world: int) -> str:
    """The trace of one rank."""
    text, info, kernels = template(path, world)
    told = json.loads(info[1]) | {"rank": rank, "world_size": world}
    for group in told["pg_config"]:
        group |= {"pg_size": world, "ranks": list(range(world))}
    chance = random.Random(rank)
    parts, at = [text[: info.start(1)], json.dumps(told)], info.end(1)
    for m in kernels:
        start, length = int(m[2] + m[3]), int(m[5] + m[6])
        late = int(min(length * 0.1, _LATE_NS) * chance.random())
        parts.append(text[at : m.start()])
        parts.append(f"{m[1]}{_us(start + late)}{m[4]}{_us(length - late)}")
        at = m.end()
    return "".join([*parts, text[at:]])


def _us(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03d}"


def write_rank(sources: list[Path], folder: Path, rank: int, world: int, pack: bool) -> int:
    """Write one rank's file; returns its bytes on disk."""
    data = rank_text(sources[rank % len(sources)], rank, world).encode()
    target = folder / f"rank{rank}.pt.trace.json{'.gz' * pack}"
    target.write_bytes(gzip.compress(data, zlib.Z_BEST_SPEED) if pack else data)
    return target.stat().st_size


def repeat_ranks(source: Path, folder: Path, world: int, *, pack: bool = True) -> int:
    """Write `world` ranks into `folder`; returns their bytes on disk."""
    sources = sorted(p for p in source.iterdir() if "trace.json" in p.name)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        made = [pool.submit(write_rank, sources, folder, k, world, pack) for k in range(world)]
        return sum(m.result() for m in made)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="folder of a run, such as sample_traces/zero3")
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--plain", action="store_true", help="plain JSON instead of .gz")
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    n = repeat_ranks(a.source, a.folder, a.ranks, pack=not a.plain)
    print(f"{a.folder}: {a.ranks} ranks, {n / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
