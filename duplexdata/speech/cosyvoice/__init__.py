"""CosyVoice 2 and 3: the official code, in an environment of its own, behind HTTP.

`worker.py` runs there, one process for each utterance spoken at a time; `process.py` speaks to it through a pipe;
`bridge.py` owns the processes; `front.py` is the HTTP that clients see.
"""
