"""Rules that turn written text into what a person would say.

Markup, code, links and emoji go; list items become sentences; symbols and numbers become words; whole
sentences are kept up to a duration. The same text always gives the same result.
"""

from duplexdata.spoken.sentence import sentences
from duplexdata.spoken.speak import Unspeakable, speakable, speakable_dialogue, spoken_form
from duplexdata.spoken.tidy import UNSAYABLE

__all__ = ["UNSAYABLE", "Unspeakable", "sentences", "speakable", "speakable_dialogue", "spoken_form"]
