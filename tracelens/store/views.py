"""Views with plain names over the tables of a run.db: what people look at."""

from __future__ import annotations

from dataclasses import dataclass

from tracelens.store.schema import BREAKDOWN, TABLES


@dataclass(frozen=True, slots=True)
class View:
    """One view: a plain name, its meaning, its SELECT."""

    name: str
    doc: str
    select: str

    @property
    def create(self) -> str:
        """The CREATE VIEW statement."""
        return f"CREATE VIEW {self.name} AS\n{self.select}"


_MS = ", ".join(f"round({c.name}, 3) AS {c.name}" for c in BREAKDOWN)


def _mean(metric: str, digits: int) -> str:
    """A mean of the run `r`."""
    return f"""(SELECT round(value, {digits}) FROM breakdowns
    WHERE run_id = r.run_id AND section = 'summary' AND metric = '{metric}')"""


def _answer(key: str) -> str:
    """What is known of a key of the setup of the run `r`: its value, else what is possible."""
    word = "CASE WHEN c.type IN ('true', 'false') THEN c.type ELSE c.value END"
    return f"""(SELECT coalesce(value, (SELECT group_concat({word}, ' or ')
    FROM json_each(candidates) c)) FROM setup WHERE run_id = r.run_id AND key = '{key}')"""


VIEWS: tuple[View, ...] = (
    View(
        "run_overview",
        "Every run in a line: what it is, how long its step takes, what slows it most.",
        f"""SELECT r.run_id, r.name,
  {_mean("wall_ms", 3)} AS step_ms,
  {_mean("exposed_comm_pct", 1)} AS exposed_comm_pct,
  (SELECT title FROM findings
    WHERE run_id = r.run_id AND cost_ms_per_step > 0 ORDER BY position LIMIT 1) AS largest_cause,
  {_answer("framework")} AS framework,
  {_answer("zero_stage")} AS zero_stage,
  {_answer("overlap_comm")} AS overlap_comm,
  r.n_ranks, r.world_size, r.device,
  replace(substr(r.added_at, 1, 16), 'T', ' ') AS added_utc
FROM runs r""",
    ),
    View(
        "step_breakdown",
        "Where each step of each rank went, ms.",
        f"""SELECT r.name AS run, s.rank, s.step, s.complete, {_MS}
FROM steps s JOIN runs r USING (run_id)""",
    ),
    View(
        "what_ran",
        "The setup of each run with its evidence in one cell.",
        """SELECT r.name AS run, s.key, s.value, s.candidates, s.confidence,
  (SELECT group_concat(text, char(10)) FROM (SELECT text FROM setup_evidence
    WHERE setup_id = s.setup_id ORDER BY position)) AS evidence
FROM setup s JOIN runs r USING (run_id)""",
    ),
    View(
        "slow_causes",
        "What slows the step of each run, most expensive first, with evidence and remedy.",
        """SELECT r.name AS run, f.id, f.title, round(f.cost_ms_per_step, 3) AS cost_ms_per_step,
  f.severity, f.ranks, f.steps,
  (SELECT group_concat(text, char(10)) FROM (SELECT text FROM finding_evidence
    WHERE finding_id = f.finding_id ORDER BY position)) AS evidence,
  f.remedy, f.config
FROM findings f JOIN runs r USING (run_id) ORDER BY f.run_id, f.position""",
    ),
    View(
        "finding_steps",
        "The steps that prove a finding: those of its ranks, and of its steps where it names some.",
        f"""SELECT r.name AS run, f.id, f.title, s.rank, s.step, {_MS}
FROM findings f JOIN runs r USING (run_id) JOIN steps s USING (run_id)
WHERE s.rank IN (SELECT value FROM json_each(f.ranks))
  AND (f.steps = '[]' OR s.step IN (SELECT value FROM json_each(f.steps)))""",
    ),
    View(
        "communication",
        "Communication of each run: exposed, waiting and transfer, and bandwidths.",
        """SELECT r.name AS run, c.kind, c.phase, c.group_name, c.group_size, c.dtype,
  c.count_per_step, c.bytes_per_step, round(c.total_ms, 3) AS total_ms,
  round(c.exposed_ms, 3) AS exposed_ms, round(c.wait_ms, 3) AS wait_ms,
  round(c.transfer_ms, 3) AS transfer_ms, round(c.busbw_gbps, 1) AS busbw_gbps
FROM collectives c JOIN runs r USING (run_id)""",
    ),
)


def statements() -> list[str]:
    """What makes an empty run.db: tables, an index a foreign key, views."""
    made = [t.create for t in TABLES]
    for t in TABLES[1:]:
        for c in t.columns:
            if "REFERENCES" in c.sql and "PRIMARY KEY" not in c.sql:
                made.append(f"CREATE INDEX {t.name}_{c.name} ON {t.name} ({c.name})")
    return made + [v.create for v in VIEWS]
