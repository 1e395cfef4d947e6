"""How it runs: artifacts, the executor, the request queue, batch-size policies and the power cap."""

if __name__ != "joulec.runtime":
    raise ImportError("import this package as joulec.runtime; the folder at the top of the repository is its source")
