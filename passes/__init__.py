"""What to run: graph, rules, search, objectives, verification and the compiler back ends."""

if __name__ != "joulec.passes":
    raise ImportError("import this package as joulec.passes; the folder at the top of the repository is its source")
