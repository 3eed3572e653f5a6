"""Read the kernel table of a large Nsight Systems export: pandas.read_sql against tracelens.

    python benchmarks/nsys_read.py [--kernels 5000000] [--file EXPORT] [--repeat 3] [--all-columns]

Without --file an export is made: CUPTI_ACTIVITY_KIND_KERNEL with all columns of schema 3.27, filled
as a training job fills it (times that grow, a few names, one process). Compared are, each in a
fresh process and in turns: `pandas.read_sql` of the seven columns that tracelens uses (and, asked
for, of all columns), the standard library with numpy, and the reader's own fetch of the seven.
Every result's checksum must be the same.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE)]

from measure import Run, run
from run_hta import own_peak

TABLE = "CUPTI_ACTIVITY_KIND_KERNEL"
USED = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid", "demangledName")
WAYS = {
    "pandas.read_sql, 7 columns": "pandas",
    "pandas.read_sql, all columns": "pandas-all",
    "sqlite3 and numpy.fromiter, 7 columns": "fromiter",
    "tracelens, 7 columns": "tracelens",
}


def make(path: Path, n: int) -> None:
    """An export with n kernels."""
    from nsys_builder import columns

    names = columns((3, 27, 0))[TABLE]
    fixed = {"deviceId": 0, "contextId": 1, "globalPid": 281495142924288, "launchType": 1,
             "registersPerThread": 64, "gridX": 4096, "gridY": 1, "gridZ": 1, "blockX": 256,
             "blockY": 1, "blockZ": 1, "staticSharedMemory": 0, "dynamicSharedMemory": 49152,
             "localMemoryPerThread": 0, "localMemoryTotal": 117440512, "cacheConfig": 0,
             "sharedMemoryExecuted": 102400, "sharedMemoryLimitConfig": 0}  # fmt: skip
    row: list[Any] = [fixed.get(c) for c in names]
    place = {c: names.index(c) for c in names}

    def rows() -> Any:
        for i in range(n):
            row[place["start"]] = start = 9_000_000_000 + 2_500 * i
            row[place["end"]] = start + 1_000 + i * 7919 % 90_000
            row[place["streamId"]] = 7 if i % 9 else 23
            row[place["correlationId"]] = row[place["gridId"]] = i + 1
            row[place["demangledName"]] = 100 + i * 31 % 211
            row[place["shortName"]] = row[place["mangledName"]] = 400 + i * 31 % 97
            yield row

    con = sqlite3.connect(path)
    con.execute("PRAGMA journal_mode = OFF")
    con.execute("PRAGMA synchronous = OFF")
    con.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
    con.execute(f"CREATE TABLE {TABLE} ({', '.join(f'{c} INTEGER' for c in names)})")
    con.executemany(f"INSERT INTO {TABLE} VALUES ({', '.join('?' * len(names))})", rows())
    con.commit()
    con.close()


def read(way: str, path: str) -> dict[str, Any]:
    """Read in one way; seconds of the reading alone, and a checksum of the seven columns."""
    import numpy as np

    listed = ", ".join(USED)
    if way.startswith("pandas"):
        import pandas as pd

        begin = time.perf_counter()
        con = sqlite3.connect(path)
        frame = pd.read_sql(f"SELECT {'*' if way == 'pandas-all' else listed} FROM {TABLE}", con)
        took = time.perf_counter() - begin
        table = {c: frame[c].to_numpy() for c in USED}
    elif way == "fromiter":
        begin = time.perf_counter()
        con = sqlite3.connect(path)
        dtype = np.dtype([(c, np.int64) for c in USED])
        rows = np.fromiter(con.execute(f"SELECT {listed} FROM {TABLE}"), dtype)
        took = time.perf_counter() - begin
        table = {c: rows[c] for c in USED}
    else:
        from tracelens.ingest.nsys.database import Database

        begin = time.perf_counter()
        with Database(path) as db:
            table = db.integers(TABLE, USED)
        took = time.perf_counter() - begin
    total = [int(np.bitwise_xor.reduce(table[c] * (i + 1))) for i, c in enumerate(USED)]
    return {"read_s": took, "rows": len(table["start"]), "sum": total, "peak_bytes": own_peak()}


def compare(path: Path, repeat: int, ways: dict[str, str]) -> None:
    """Measure the ways in turns and print the table."""
    best: dict[str, Run] = {}
    for _ in range(repeat):
        for label, way in ways.items():
            done = run([sys.executable, __file__, "--way", way, "--file", str(path)])
            if label not in best or done.answer["read_s"] < best[label].answer["read_s"]:
                best[label] = done
    answers = [b.answer for b in best.values()]
    if len({(a["rows"], tuple(a["sum"])) for a in answers}) != 1:
        raise SystemExit("the ways disagree about what the table holds")
    ours = best["tracelens, 7 columns"]
    size = path.stat().st_size / 1e6
    print(f"{answers[0]['rows']:,} kernels, {size:,.0f} MB, fastest of {repeat}\n")
    print("| way | s | peak MB | tracelens is | tracelens takes |")
    print("|---|---|---|---|---|")
    for label, b in best.items():
        faster = b.answer["read_s"] / ours.answer["read_s"]
        less = ours.peak_bytes / b.peak_bytes
        print(
            f"| {label} | {b.answer['read_s']:.2f} | {b.peak_bytes / 1e6:,.0f} "
            f"| {faster:.1f} times faster | {less:.2f} of the memory |"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", type=int, default=5_000_000)
    parser.add_argument("--file", type=Path, help="an export to read instead of a made one")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--all-columns", action="store_true", help="pandas reads all columns, too (takes 7 GB)"
    )
    parser.add_argument("--way", choices=list(WAYS.values()), help=argparse.SUPPRESS)
    a = parser.parse_args()
    ways = {k: w for k, w in WAYS.items() if w != "pandas-all" or a.all_columns}
    if a.way:
        print(json.dumps(read(a.way, str(a.file))))
    elif a.file:
        compare(a.file, a.repeat, ways)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "made.sqlite"
            make(path, a.kernels)
            compare(path, a.repeat, ways)


if __name__ == "__main__":
    main()
