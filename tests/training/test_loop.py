"""The loop that all models share: what a run that was killed leaves behind, and what the next one makes of it."""

import csv

import pytest
import torch
from torch import nn

from hdtalk.errors import UsageError
from hdtalk.training.loop import Task, TrainConfig, train


class Line(Task):
    """Learns the slope of a line; killed at `killed_at`, if that is given."""

    name = "line"
    averaged = ("net",)

    def __init__(self, config, killed_at=None):
        super().__init__(config)
        self.killed_at = killed_at
        self.networks = {"net": nn.Linear(1, 1)}
        self.optimisers = {"main": torch.optim.SGD(self.networks["net"].parameters(), config.learning_rate)}

    def step(self, step, progress, rng):
        if step == self.killed_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(rng.normal(size=(4, 1))).float()
        loss = (self.networks["net"](x) - 2 * x).square().mean()
        self.update(loss)
        return {"loss": loss}

    def validate(self, averages):
        return {"slope": averages["net"].weight.item()}, None


def trained_steps(out):
    with open(out / "log.csv", newline="") as file:
        return [int(step) for kind, step, *_ in csv.reader(file) if kind == "train"]


@pytest.mark.parametrize("checkpoint_minutes", [0.0, 1e9], ids=["after every step", "none before the end"])
def test_steps_taken_again_are_logged_once(tmp_path, checkpoint_minutes):
    many = {"steps": 9, "minutes": 1e9, "learning_rate": 0.1, "log_steps": 1, "validate_minutes": 1e9}
    with pytest.raises(KeyboardInterrupt):
        train(Line(TrainConfig(**many, checkpoint_minutes=checkpoint_minutes), killed_at=4), tmp_path)
    assert trained_steps(tmp_path) == [1, 2, 3, 4]
    with open(tmp_path / "log.csv", "a") as file:
        file.write("train,5,9.0,loss,1\r\ntrain,6")  # logged after the last checkpoint, and cut off
    train(Line(TrainConfig(**many)), tmp_path)
    assert trained_steps(tmp_path) == list(range(1, 10))


def test_a_run_goes_on_as_it_began_or_not_at_all(tmp_path):
    few = {"steps": 2, "minutes": 1e9, "learning_rate": 0.1}
    train(Line(TrainConfig(**few)), tmp_path, "weights")
    more = few | {"steps": 3}
    for changed, start, hint in (({"learning_rate": 0.2}, "weights", "learning_rate 0.1, not 0.2"), ({}, "", "other")):
        with pytest.raises(UsageError, match=f"{hint}.*another --out"):
            train(Line(TrainConfig(**more | changed)), tmp_path, start)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2 and state["finished"]
    train(Line(TrainConfig(**more)), tmp_path, "weights")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
