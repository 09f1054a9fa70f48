"""How the process runs: devices and hosts, compilation, signals, what it prints."""
