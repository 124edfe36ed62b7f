"""The processes of a run: one, or as many as `accelerate launch` has started."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from duplexdata.errors import ConfigError
from duplexdata.training.config import ModelSettings
from duplexdata.training.predictor import Place, choose_place


class Devices:
    """Attributes:
    rank, count: of this process, and of all.
    place: where this process computes.
    """

    def __init__(self, settings: ModelSettings) -> None:
        """Raises ConfigError: a device that is not there, or a kind of distribution that training here cannot use."""
        self.rank, self.count = 0, 1
        self._accelerator: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            self.place: Place = choose_place(settings)
            return
        try:
            from accelerate import Accelerator
        except ImportError:
            raise ConfigError("several processes need the extra: pip install 'duplexdata[train]'") from None
        self._accelerator = Accelerator(cpu=settings.device == "cpu")
        kind = str(getattr(self._accelerator.distributed_type, "value", self._accelerator.distributed_type))
        if kind not in ("MULTI_GPU", "MULTI_CPU"):
            raise ConfigError(f"accelerate is set to {kind}: only plain data parallelism (MULTI_GPU) is supported")
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.place = choose_place(settings, self._accelerator.device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        return module if self._accelerator is None else self._accelerator.prepare_model(module)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Gradients stay here until the last part of a step."""
        return torch.enable_grad() if self._accelerator is None else self._accelerator.no_sync(module)

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes."""
        return values if self._accelerator is None else self._accelerator.reduce(values, "sum")

    def wait(self) -> None:
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def main_first(self, work: Callable[[], Any]) -> Any:
        """The first process does it, the others then find it done (a download, a cache)."""
        if self._accelerator is None:
            return work()
        with self._accelerator.main_process_first():
            return work()

    def close(self) -> None:
        if self._accelerator is not None:
            self._accelerator.end_training()
