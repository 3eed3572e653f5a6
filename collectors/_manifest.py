"""The manifest beside a rank's trace: ``rank<N>.run.json``, format ``tracelens.run`` version 1.

Each rank writes its own file and nobody else's, under a name of its own that is moved into place
once it is whole, so ranks on a shared file system never meet. docs/formats.md is the schema.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT, VERSION = "tracelens.run", 1

#: Sections of a ds_config that say how the job trains. Others (comet, wandb, tensorboard,
#: csv_monitor, nebula, aio paths, autotuning ...) may hold keys, hosts and paths: left out by name.
_SECTIONS = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "prescale_gradients",
        "gradient_predivide_factor",
        "sparse_gradients",
        "communication_data_type",
        "seq_parallel_communication_data_type",
        "optimizer",
        "scheduler",
        "fp16",
        "bf16",
        "amp",
        "torch_autocast",
        "data_types",
        "zero_optimization",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "activation_checkpointing",
        "pipeline",
        "tensor_parallel",
        "sequence_parallel_size",
        "compile",
        "comms_logger",
        "flops_profiler",
        "timers",
        "wall_clock_breakdown",
        "memory_breakdown",
        "dump_state",
        "steps_per_print",
        "use_node_local_storage",
    }
)


def ds_config_parts(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What of a ds_config is recorded, and the names of the sections left out.

    Within a section, paths and whatever is no plain number, switch, name or list of these are
    replaced by None.

    Examples
    --------
    >>> ds_config_parts({"gradient_clipping": 1.0, "comet": {"api_key": "x"}})
    ({'gradient_clipping': 1.0}, ['comet'])
    """
    kept = {k: _plain(k, v) for k, v in config.items() if k in _SECTIONS}
    return kept, sorted(str(k) for k in config if k not in _SECTIONS)


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(str(k), v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(key, v) for v in value]
    if isinstance(value, str):
        is_path = os.sep in value or key.endswith(("path", "file", "folder", "dir"))
        return None if is_path else value
    if isinstance(value, float):  # JSON has no infinities (steps_per_print: inf)
        return value if value == value and abs(value) != float("inf") else None
    return value if isinstance(value, (bool, int)) or value is None else None


def effective_ds_config(engine: Any) -> dict[str, Any]:
    """The configuration that a DeepSpeed engine runs with: what was given, defaults filled in.

    Raises
    ------
    AttributeError
        If the engine has no configuration that we know how to read.
    """
    given = engine.config if isinstance(engine.config, Mapping) else {}
    config: dict[str, Any] = dict(given)
    known = engine._config
    zero = getattr(known, "zero_config", None)
    if zero is not None:
        dump = getattr(zero, "model_dump", None) or zero.dict  # pydantic 2, 1
        config["zero_optimization"] = _json_able(dump(by_alias=True))
    for key in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ):
        if hasattr(known, key):
            config[key] = getattr(known, key)
    return config


def _json_able(value: Any) -> Any:
    """Enumerations as their values, all the way down."""
    if isinstance(value, Mapping):
        return {str(k): _json_able(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_able(v) for v in value]
    return getattr(value, "value", value)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file whole or not at all: under another name first, then moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


#: Manifests that this process has written: another collector's keys in them are of this run.
_written: set[Path] = set()


def update(
    folder: Path, rank: int, parts: Mapping[str, object], *, of_another_run: bool = False
) -> Path:
    """Put keys into a rank's manifest, beside what another collector of this run wrote there.

    With `of_another_run`, also beside what an earlier process wrote: FLOPs counted afterwards
    belong to the trace that lies there. Otherwise an older run's manifest is replaced.

    Returns
    -------
    Path
        The manifest.
    """
    path = folder / f"rank{rank}.run.json"
    before: dict[str, object] = {}
    if of_another_run or path in _written:
        with contextlib.suppress(OSError, ValueError):
            old = json.loads(path.read_text(encoding="utf-8"))
            before = old if isinstance(old, dict) and old.get("format") == FORMAT else {}
    write_json(path, {"format": FORMAT, "version": VERSION, **before, **parts})
    _written.add(path)
    return path
