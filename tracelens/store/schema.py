"""What a run.db holds: every table and column with its meaning.

The statements that make the tables, and docs/schema.md, are written from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["INTEGER", "REAL", "TEXT", "BLOB"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its SQL type, its meaning, whether it may be NULL, and what more SQL asks."""

    name: str
    type: Type
    doc: str
    null: bool = False
    sql: str = ""

    @property
    def definition(self) -> str:
        """The column in a CREATE TABLE."""
        parts = [self.name, self.type, "" if self.null else "NOT NULL", self.sql]
        return " ".join(p for p in parts if p)


@dataclass(frozen=True, slots=True)
class Table:
    """One table, its meaning, and its columns. All but `runs` belong to a run and go with it."""

    name: str
    doc: str
    columns: tuple[Column, ...]

    @property
    def create(self) -> str:
        """The CREATE TABLE statement."""
        body = ",\n  ".join(c.definition for c in self.columns)
        return f"CREATE TABLE {self.name} (\n  {body}\n) STRICT"


def _integer(name: str, doc: str, null: bool = False, sql: str = "") -> Column:
    return Column(name, "INTEGER", doc, null, sql)


def _real(name: str, doc: str, null: bool = False) -> Column:
    return Column(name, "REAL", doc, null)


def _text(name: str, doc: str, null: bool = False, sql: str = "") -> Column:
    return Column(name, "TEXT", doc, null, sql)


def _flag(name: str, doc: str) -> Column:
    return Column(name, "INTEGER", doc, False, f"CHECK ({name} IN (0, 1))")


def _json(name: str, doc: str, null: bool = False) -> Column:
    # before SQLite 3.45 json_valid(NULL) is 0
    valid = f"{name} IS NULL OR json_valid({name})" if null else f"json_valid({name})"
    return Column(name, "TEXT", f"{doc}, JSON", null, f"CHECK ({valid})")


def _key(name: str) -> Column:
    return Column(name, "INTEGER", "number of the row", True, "PRIMARY KEY")


def _of_run() -> Column:
    sql = "REFERENCES runs (run_id) ON DELETE CASCADE"
    return Column("run_id", "INTEGER", "the run", False, sql)


#: Parts of a step, ms.
BREAKDOWN = (
    _real("wall_ms", "the step's window on the GPU, ms"),
    _real("compute_ms", "at least one compute kernel runs, ms"),
    _real("overlapped_comm_ms", "communication and compute run, ms"),
    _real("exposed_comm_ms", "communication runs and no compute kernel does, ms"),
    _real("exposed_copy_ms", "only copies or memsets run, ms"),
    _real("idle_ms", "nothing runs, ms"),
    _real("comm_ms", "communication runs, ms"),
    _real("exposed_wait_ms", "exposed communication that waits for other ranks, ms", null=True),
    _real("exposed_transfer_ms", "exposed communication that moves bytes, ms", null=True),
)

TABLES: tuple[Table, ...] = (
    Table(
        "runs",
        "One row a recorded run.",
        (
            Column("run_id", "INTEGER", "number of the run in this file", True, "PRIMARY KEY"),
            _text("name", "name of the folder or file that it was read from"),
            _text("content", "digest of the files that it was read from", sql="UNIQUE"),
            _text("added_at", "when it was added, UTC, ISO 8601"),
            _text("tracelens", "version of tracelens that read it"),
            _text("source", "what recorded it: torch.profiler or nsys"),
            _text("device", "name of the GPU", null=True),
            _integer("world_size", "ranks of the job, recorded or not", null=True),
            _integer("n_ranks", "ranks read"),
            _integer("n_events", "events read"),
            _text("torch", "version of torch", null=True),
            _text("nccl", "version of NCCL", null=True),
            _text("rank_source", "how ranks are known"),
            _text("step_source", "how steps were found"),
            _text(
                "verdict", "what ran, what slows it most, where the time goes: a sentence a line"
            ),
        ),
    ),
    Table(
        "files",
        "The files that a run was read from; how they looked, so that changed ones are noticed.",
        (
            _key("file_id"),
            _of_run(),
            _text("path", "absolute path when it was read"),
            _integer("bytes", "size"),
            _integer("modified_ns", "time of the last change, ns since 1970"),
            _text("digest", "BLAKE2b (128 bit) of the content"),
        ),
    ),
    Table(
        "ranks",
        "One row a rank that was read.",
        (
            _key("rank_id"),
            _of_run(),
            _integer("rank", "the rank"),
            _text("path", "its trace file, absolute"),
            _text("part", "which of the file's ranks, where it holds several", null=True),
            _integer("n_steps", "steps found, whole or cut"),
            _integer("events_read", "events read"),
            _integer("events_dropped", "events that could not be used"),
            _integer("first_ns", "start of the first event on the trace's clock, ns"),
            _integer("clock_zero_ns", "unix time of that clock's zero, ns"),
        ),
    ),
    Table(
        "steps",
        "One row a rank and step: where its time went. compute + exposed_comm + exposed_copy + "
        "idle = wall, and exposed_comm + overlapped_comm = comm, to the nanosecond.",
        (
            _key("step_id"),
            _of_run(),
            _integer("rank", "the rank"),
            _integer("step", "the profiler's number of the step"),
            _flag("complete", "0 for a step that the recording cut; means leave it out"),
            _real("start_ms", "start of the window since the rank's first event, ms"),
            *BREAKDOWN,
            _integer("kernels", "pieces of GPU work that the step launched"),
        ),
    ),
    Table(
        "breakdowns",
        "Means of a run, one row a value: where the step's time went (summary), GPU work by kind "
        "(compute), idle time by cause (idle), FLOPs against the GPU's peak (efficiency).",
        (
            _key("breakdown_id"),
            _of_run(),
            _text("section", "section of the JSON report: summary, compute, idle, efficiency"),
            _text("metric", "the key there, unit included"),
            _real("value", "the value; NULL where the trace does not say", null=True),
        ),
    ),
    Table(
        "collectives",
        "One row a kind, phase, process group and element type: means per step and rank.",
        (
            _key("collective_id"),
            _of_run(),
            _text("kind", "all_gather, reduce_scatter, all_reduce ..."),
            _text("phase", "forward, backward or step (the optimizer)", null=True),
            _text("group_name", "the process group", null=True),
            _integer("group_size", "its number of ranks", null=True),
            _text("dtype", "element type", null=True),
            _real("count_per_step", "kernels a step"),
            _real("bytes_per_step", "bytes a step; the larger side of each message", null=True),
            _real("total_ms", "summed length a step, waiting included, ms"),
            _real("exposed_ms", "the part with no compute beside it, ms"),
            _real("wait_ms", "the part that waits for other ranks, ms", null=True),
            _real("transfer_ms", "the part that moves bytes, ms", null=True),
            _real("algbw_gbps", "algorithm bandwidth of the transfer, GB/s", null=True),
            _real("busbw_gbps", "bus bandwidth of the transfer, GB/s", null=True),
        ),
    ),
    Table(
        "comm",
        "One row a communication kernel of a rank.",
        (
            _key("comm_id"),
            _of_run(),
            _integer("rank", "the rank"),
            _integer("step", "the profiler's number of the step", null=True),
            _text("kind", "all_gather, reduce_scatter, all_reduce ..."),
            _text("phase", "forward, backward or step (the optimizer)", null=True),
            _integer("micro_step", "micro-step within the step", null=True),
            _text("group_name", "the process group", null=True),
            _integer("group_size", "its number of ranks", null=True),
            _text("dtype", "element type", null=True),
            _integer("stream", "GPU stream"),
            _integer("bytes", "the larger side of the message", null=True),
            _integer("start_ns", "start since the rank's first event, ns"),
            _integer("dur_ns", "length, ns"),
            _integer("exposed_ns", "the part with no compute beside it, ns"),
            _integer("wait_ns", "its first part, in which a later rank was waited for", null=True),
            _integer("number", "the same for the same collective on all its ranks", null=True),
        ),
    ),
    Table(
        "fits",
        "Latency and bandwidth of transfers: one row a kind, process group and kernel.",
        (
            _key("fit_id"),
            _of_run(),
            _text("kind", "all_gather, reduce_scatter, all_reduce ..."),
            _text("group_name", "the process group", null=True),
            _integer("group_size", "its number of ranks", null=True),
            _text("algorithm", "as the kernel's name has it", null=True),
            _integer("count", "matched collectives, or messages"),
            _integer("sizes", "different sizes among these"),
            _real("min_bytes", "the smallest message", null=True),
            _real("max_bytes", "the largest message", null=True),
            _real("algbw_gbps", "measured algorithm bandwidth of the largest, GB/s", null=True),
            _real("busbw_gbps", "measured bus bandwidth of the largest, GB/s", null=True),
            _real("latency_us", "latency of the fitted line, us", null=True),
            _real("bandwidth_gbps", "algorithm bandwidth of the fitted line, GB/s", null=True),
            _real("bus_bandwidth_gbps", "bus bandwidth of the fitted line, GB/s", null=True),
            _real("residual_pct", "distance of the transfers from the line, %", null=True),
            _text("reason", "why there is no line", null=True),
        ),
    ),
    Table(
        "setup",
        "What was running, one row a key.",
        (
            _key("setup_id"),
            _of_run(),
            _text("key", "zero_stage, overlap_comm, reduce_bucket_size ..."),
            _text("value", "the value as text; NULL where the trace cannot tell", null=True),
            _json("candidates", "what is possible, most likely first"),
            _real("confidence", "0 to 1, in the value or in the candidates being complete"),
            _integer("low", "lower bound of a size that can only be bounded", null=True),
            _integer("high", "upper bound", null=True),
        ),
    ),
    Table(
        "setup_evidence",
        "Why: sentences that can be checked against the trace.",
        (
            _key("evidence_id"),
            _of_run(),
            _integer("setup_id", "the answer", sql="REFERENCES setup (setup_id) ON DELETE CASCADE"),
            _integer("position", "order of the sentences, from 0"),
            _text("text", "the sentence"),
        ),
    ),
    Table(
        "findings",
        "Causes of a slow step, most expensive first. The view finding_steps has the steps that "
        "prove them.",
        (
            _key("finding_id"),
            _of_run(),
            _integer("position", "order by cost, from 0"),
            _text("id", "the cause; stable"),
            _text("title", "one line"),
            _real("cost_ms_per_step", "what the step would save without it, ms"),
            _text("severity", "critical, high, low or info"),
            _json("ranks", "where it was seen"),
            _json("steps", "where it was seen; empty: not in single steps"),
            _text("remedy", "what to do"),
            _json("config", "ds_config keys and values that would help", null=True),
        ),
    ),
    Table(
        "finding_evidence",
        "Why: sentences that can be checked against the trace.",
        (
            _key("evidence_id"),
            _of_run(),
            _integer(
                "finding_id",
                "the finding",
                sql="REFERENCES findings (finding_id) ON DELETE CASCADE",
            ),
            _integer("position", "order of the sentences, from 0"),
            _text("text", "the sentence"),
        ),
    ),
    Table(
        "finding_proof",
        "Where in the trace a finding shows: the moments that weigh most.",
        (
            _key("proof_id"),
            _of_run(),
            _integer(
                "finding_id",
                "the finding",
                sql="REFERENCES findings (finding_id) ON DELETE CASCADE",
            ),
            _integer("position", "order by rank and time, from 0"),
            _integer("rank", "the rank"),
            _integer("step", "the profiler's number of the step"),
            _integer("start_ns", "start since the rank's first event, ns"),
            _integer("end_ns", "end since the rank's first event, ns"),
            _text("name", "the event to look at; empty where the time alone tells"),
            _integer("event_row", "its row among the rank's events; -1 without one"),
        ),
    ),
    Table(
        "detectors",
        "One row a cause that was looked for, found or not.",
        (
            _key("detector_id"),
            _of_run(),
            _text("id", "as in findings"),
            _text("status", "fired, clean or not_applicable"),
            _text("reason", "why it could not be judged", null=True),
        ),
    ),
    Table(
        "notes",
        "What was odd about the input.",
        (
            _key("note_id"),
            _of_run(),
            _text("code", "stable name"),
            _integer("count", "how often"),
            _text("text", "a sentence"),
        ),
    ),
    Table(
        "predictions",
        "What a what-if said: the step under another configuration.",
        (
            _key("prediction_id"),
            _of_run(),
            _text("added_at", "when it was made, UTC, ISO 8601"),
            _json("change", "the configuration keys and values that were asked about"),
            _real("step_ms", "predicted step, ms", null=True),
            _real("low_ms", "lower end of its band, ms", null=True),
            _real("high_ms", "upper end of its band, ms", null=True),
            _real("ratio", "predicted over replayed step", null=True),
            _integer("memory_delta_bytes", "change of GPU memory a rank", null=True),
            _text("confidence", "high, medium or low", null=True),
            _json("document", "all that `tracelens whatif --json` printed"),
        ),
    ),
    Table(
        "reports",
        "One row a run: the report itself.",
        (
            Column(
                "run_id",
                "INTEGER",
                "the run",
                True,
                "PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE",
            ),
            _integer("format", "format of the document"),
            _json("document", "all that `tracelens analyze --json` prints"),
            _text("shape", "digest of the types that the analysis is made of"),
            Column("analysis", "BLOB", "the analysis itself (MessagePack, zstandard), for drawing"),
        ),
    ),
)
