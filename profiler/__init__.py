"""What it costs: meters, the measurement protocol, the measuring harness and device identity."""

if __name__ != "joulec.profiler":
    raise ImportError("import this package as joulec.profiler; the folder at the top of the repository is its source")
