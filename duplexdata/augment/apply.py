"""What was drawn for a conversation is done to its user channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from duplexdata.augment.config import AugmentConfig
from duplexdata.augment.draw import draw
from duplexdata.augment.noise import NoiseFolder
from duplexdata.augment.signal import UnusableNoise, augment
from duplexdata.conversation import Conversation
from duplexdata.errors import ScriptError

Int16 = npt.NDArray[np.int16]


class Augmenter:
    """Args:
    folder: of noise, where the config names one.
    """

    def __init__(self, config: AugmentConfig, seed: int, folder: NoiseFolder | None) -> None:
        self._config, self._seed, self._folder = config, seed, folder

    def __call__(self, conversation: Conversation, audio: Int16) -> dict[str, Any] | None:
        """Change the user's channel in place.

        Args:
            audio: int16, shape (n_samples, 2): assistant, user.

        Returns: the row's `augmentation`; None where nothing was drawn, and nothing has changed.
        Raises: ScriptError("unusable_noise"): the stretch of the recording that was drawn is silent or not finite.
        """
        files = self._folder.files if self._folder is not None else ()
        found = draw(self._config, self._seed, conversation.id, conversation.utterances, files)
        if found is None:
            return None
        noise = None
        if found.noise is not None and found.noise.file is not None:
            assert self._folder is not None and found.noise.offset is not None
            noise = self._folder.read(found.noise.file, found.noise.offset, len(audio))
        try:
            heard = augment(audio[:, 1], audio[:, 0], conversation.utterances, found, noise)
        except UnusableNoise as error:
            where = found.noise.file if found.noise is not None else None
            raise ScriptError("unusable_noise", f"{where}: what was drawn of it {error}") from error
        audio[:, 1] = heard.samples
        return found.as_row(heard.scale_db)
