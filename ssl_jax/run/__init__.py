"""The application behind commands, launchers and benchmarks, from a config to a finished run."""
