"""What the process runs on: devices, other processes, memory, signals, the disk."""
