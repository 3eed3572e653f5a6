"""What differs between two reports besides time: the job, its setup, what slows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tracelens.comparison.steps import host_bound, micro_steps, work_ratio

#: What of ``run`` makes a different job.
_RUN = ("source", "device", "world_size", "torch", "nccl")


def run_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What of the job is known on both sides and differs: key -> [before, after]."""
    pairs = {k: [before["run"].get(k), after["run"].get(k)] for k in _RUN}
    return {k: p for k, p in pairs.items() if None not in p and p[0] != p[1]}


def setup_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Keys of the setup that cannot be the same on both sides: key -> [value, value].

    A value is None where only candidates are known; a key whose possible values overlap is no
    change.
    """
    changes = {}
    for key, old in before["setup"].items():
        new = after["setup"].get(key)
        if new is None or not _apart(old, new):
            continue
        changes[key] = [old["value"], new["value"]]
    return changes


def config_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Keys of the ds_config that differ, where both are known: dotted key -> [value, value].

    A value is None where the key is not in that file: DeepSpeed's default holds.
    """
    if not before.get("ds_config") or not after.get("ds_config"):
        return {}
    old, new = (dict(_flat(r["ds_config"]["values"])) for r in (before, after))
    keys = [*old, *(k for k in new if k not in old)]
    return {k: [old.get(k), new.get(k)] for k in keys if old.get(k) != new.get(k)}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two answers share no possible value. Without any candidate nothing is excluded."""
    for x, y in ((a, b), (b, a)):
        if x["value"] is not None and y["value"] is None and ("low" in y or "high" in y):
            return not y.get("low", x["value"]) <= x["value"] < y.get("high", x["value"] + 1)
    sides = [[x["value"]] if x["value"] is not None else x["candidates"] for x in (a, b)]
    if not all(sides):
        return False
    return not any(x == y and type(x) is type(y) for x in sides[0] for y in sides[1])


def findings(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What slows the step on one side only, and on both.

    Returns
    -------
    dict
        ``findings_gone`` and ``findings_new``: findings whose detector looked at the other side
        and found nothing; ``findings_kept``: on both, with both costs; ``findings_unjudged``: the
        other side's trace cannot say.
    """
    old, new = _by_id(before), _by_id(after)
    unjudged: list[dict[str, Any]] = []
    one_sided: dict[str, list[dict[str, Any]]] = {"findings_gone": [], "findings_new": []}
    for name, mine, others, other in (
        ("findings_gone", old, new, after),
        ("findings_new", new, old, before),
    ):
        status = {d["id"]: d for d in other["detectors"]}
        for id_, rows in mine.items():
            if id_ in others:
                continue
            told = status.get(id_, {"status": "not_applicable", "reason": None})
            if told["status"] == "not_applicable":
                side = "before" if mine is old else "after"
                unjudged += [_brief(r) | {"in": side, "reason": told["reason"]} for r in rows]
            else:
                one_sided[name] += [_brief(r) for r in rows]
    kept = []
    for id_ in (i for i in old if i in new):
        a, b = (sum(r["cost_ms_per_step"] for r in side[id_]) for side in (old, new))
        kept.append(
            {
                "id": id_,
                "title": new[id_][0]["title"],
                "before_ms": round(a, 6),
                "after_ms": round(b, 6),
                "delta_ms": round(b - a, 6),
            }
        )
    return {**one_sided, "findings_kept": kept, "findings_unjudged": unjudged}


def _by_id(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for f in report["findings"]:
        rows.setdefault(f["id"], []).append(f)
    return rows


def _brief(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {k: finding[k] for k in ("id", "title", "cost_ms_per_step", "severity", "ranks")}


def notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Sentences on what makes the two hard to compare."""
    told = []
    ratio = work_ratio(before, after)
    if ratio is not None:
        a, b = (r["compute"]["gemm_ms"] for r in (before, after))
        told.append(
            f"The steps do not do the same work: matrix products take {a:.1f} ms before and "
            f"{b:.1f} ms after. Model, batch or sequence length differ."
        )
    n, m = micro_steps(before), micro_steps(after)
    if n is not None and m is not None and n != m:
        told.append(
            f"Steps have {n} and {m} micro-steps: the parts and costs below are of whole steps."
        )
    one, other = (r["run"]["ranks"] for r in (before, after))
    if one != other:
        told.append(
            f"Ranks {_ranks(one)} were read before and {_ranks(other)} after: means over ranks "
            "are not over the same ones."
        )
    for key, what in (("world_size", "ranks"), ("data_parallel_size", "data-parallel ranks")):
        a, b = (_size(r, key) for r in (before, after))
        if a is not None and b is not None and a != b:
            told.append(
                f"The job has {a} {what} before and {b} after: a step takes in another number of "
                "samples."
            )
            break
    if host_bound(before, after):
        told.append(
            "The host is the limit on both sides, and the profiler slows it: the difference may be "
            "another without."
        )
    for side, report in (("before", before), ("after", after)):
        if any(f["id"] == "gpu_shared" for f in report["findings"]):
            told.append(f"Another process used the GPU {side}: times depend on what it did.")
    a, b = (r["run"].get("source") for r in (before, after))
    if a != b:
        told.append(f"{a} and {b} slow a job down differently: part of the difference is theirs.")
    return told


def _size(report: Mapping[str, Any], key: str) -> int | None:
    value = report["run"].get(key) if key in report["run"] else None
    found = report["setup"].get(key, {}).get("value") if value is None else value
    return found if isinstance(found, int) else None


def _ranks(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
