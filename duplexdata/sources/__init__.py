"""Where dialogues come from: `shapes` has the forms of their rows, `read` the files and hubs they lie in."""
