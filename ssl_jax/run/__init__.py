"""The application behind commands, launchers, benchmarks and Python: from config to finished run."""
