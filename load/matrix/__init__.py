"""The parts of the data plane's benchmark; `load/proxy.py` is the command."""
