"""Self-contained HTML page of a run, or of several runs side by side."""
