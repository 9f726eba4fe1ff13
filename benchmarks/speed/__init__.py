"""Speed and memory, ours and the peers side by side."""
