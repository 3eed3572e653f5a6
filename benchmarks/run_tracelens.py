"""Run tracelens's whole analysis on one trace, timed; prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import time

from run_hta import own_peak


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?")
    parser.add_argument("--load-only", action="store_true", help="read the file, analyse nothing")
    a = parser.parse_args()
    start = time.perf_counter()
    import tracelens

    answer: dict[str, object] = {"version": f"tracelens {tracelens.__version__}"}
    if a.trace is not None:
        load = tracelens.open_trace if a.load_only else tracelens.analyze
        imported = time.perf_counter()
        result = load(a.trace)
        answer |= {"import_s": imported - start, "analyze_s": time.perf_counter() - imported}
        if not a.load_only:
            ratio = result.summary.overlap_ratio
            answer["overlap_pct"] = None if ratio is None else 100 * ratio
            answer["events"] = result.run.n_events
    print(json.dumps(answer | {"peak_bytes": own_peak()}))


if __name__ == "__main__":
    main()
