"""One line in Hugging Face's Trainer, one in Accelerate, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collectors import Schedule
from collectors.callbacks import record_accelerate, trainer_callback

SCHEDULE = Schedule(skip=1, timed=2, warmup=0, active=2)


def told(folder: Path) -> dict[str, Any]:
    steps: dict[str, Any] = json.loads((folder / "rank0.run.json").read_text())["steps"]
    return steps


@pytest.mark.filterwarnings("ignore")
def test_the_trainer(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")

    class Model(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return {"loss": self.linear(x).sum()}

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=6, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    data = [{"x": torch.randn(4)} for _ in range(64)]
    callback = trainer_callback(tmp_path / "run", schedule=SCHEDULE)
    trainer = transformers.Trainer(
        model=Model(), args=arguments, train_dataset=data, callbacks=[callback]
    )
    trainer.train()
    steps = told(tmp_path / "run")
    assert steps["unprofiled"]["count"] == 2
    assert (steps["profiled"]["first_step"], steps["profiled"]["count"]) == (3, 2)
    assert not callback.collector.on


@pytest.mark.filterwarnings("ignore")
def test_accelerate(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    collector = record_accelerate(accelerator, tmp_path, schedule=SCHEDULE)
    for _ in range(2 * (SCHEDULE.total + 1)):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.randn(2, 4)).sum())
            optimizer.step()
            optimizer.zero_grad()
    assert not collector.on
    assert not collector.broken
    assert "step" not in vars(optimizer), "its own method again"
    assert told(tmp_path)["profiled"]["count"] == 2


@pytest.mark.filterwarnings("ignore")
def test_accelerate_before_prepare_is_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    with pytest.warns(UserWarning, match="nothing is prepared"):
        collector = record_accelerate(accelerate.Accelerator(cpu=True), tmp_path)
    assert not collector.on
