"""A DeepSpeed configuration, from its file or from a manifest: read once, asked by dotted key."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracelens.errors import InputError

#: Sections of which one key at least is in every ds_config that DeepSpeed accepts.
_MARKS = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "zero_optimization",
        "bf16",
        "fp16",
        "optimizer",
    }
)


@dataclass(frozen=True, slots=True)
class DsConfig:
    """What a job was configured to do.

    Attributes
    ----------
    values : mapping
        The configuration, as nested as in its file.
    source : str
        Where it is from, for people: a path, or ``manifest``.
    """

    values: Mapping[str, Any]
    source: str

    def get(self, key: str) -> Any:
        """The value of a dotted key; None where it is absent, or left to the framework (auto).

        Examples
        --------
        >>> c = DsConfig({"zero_optimization": {"stage": 2, "overlap_comm": "auto"}}, "ds.json")
        >>> c.get("zero_optimization.stage"), c.get("zero_optimization.overlap_comm")
        (2, None)
        """
        value: Any = self.values
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return None if value == "auto" else value


def read_ds_config(path: str | os.PathLike[str]) -> DsConfig:
    """Read a ds_config file.

    Raises
    ------
    InputError
        If it cannot be read, or is no ds_config.
    """
    name = os.fspath(path)
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{name}: {e.strerror or e}", hint="check the path") from e
    except ValueError as e:
        raise InputError(
            f"{name}: not JSON: {e}", hint="give the ds_config that the job was started with"
        ) from e
    if not isinstance(values, dict) or not _MARKS & values.keys():
        raise InputError(
            f"{name}: no ds_config: it has none of the keys {', '.join(sorted(_MARKS))}",
            hint="give the ds_config that the job was started with",
        )
    return DsConfig(values, name)
