"""What a microphone adds to the user's channel: level, noise, a room, the assistant's echo, other people's distance.

`config` says how often and how much, `draw` decides for one conversation, `signal` does it to samples, `noise` reads
recordings of noise, `apply` is all of these together. Times, words and labels stay as they are.
"""
