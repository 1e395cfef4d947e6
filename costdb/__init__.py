"""What is known: costs, their keys, and the stores that keep them."""

if __name__ != "joulec.costdb":
    raise ImportError("import this package as joulec.costdb; the folder at the top of the repository is its source")
