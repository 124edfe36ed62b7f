"""What a backend needs to run beside the build: started once, before the workers, and stopped with the build."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from duplexdata.backends import cosyvoice_folders, reported_model
from duplexdata.config import SpeechConfig

logger = logging.getLogger(__name__)


@contextmanager
def running(config: SpeechConfig) -> Iterator[SpeechConfig]:
    """The settings as workers use them, while what they need is running.

    cosyvoice: its bridge is started, and its address is in `servers`. speech_http: the model that the servers report
    now is in `model`, so that another one that takes its place is noticed.

    Raises: ConfigError, SpeechServerError: it cannot be started.
    """
    if config.backend == "speech_http":
        yield replace(config, model=config.model or reported_model(config))
        return
    if config.backend != "cosyvoice":
        yield config
        return
    from duplexdata.speech.cosyvoice.bridge import Bridge, BridgeSettings

    checkout, model = cosyvoice_folders(config)
    settings = BridgeSettings(
        checkout,
        model,
        config.python,
        devices=config.devices,
        per_device=config.processes_per_device,
        timeout_sec=config.answer_timeout_sec,
        wait_sec=config.answer_timeout_sec,
    )
    logger.info("starting CosyVoice from %s", Path(model).name)
    with Bridge(settings) as bridge:
        yield replace(config, servers=(bridge.url,))
