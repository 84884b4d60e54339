"""What commands, launchers, benchmarks and Python share: from a config to a finished run."""
