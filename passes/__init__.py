"""What to run: graph, rules, search, objectives, verification and the compiler back ends."""

if __name__ != "joulec.passes":
    raise ImportError("import this package as joulec.passes; the folder at the top of the repository is its source")


def __getattr__(name: str) -> object:
    """The back ends ``relax`` and ``relay`` on first use: they load TVM."""
    if name in ("relax", "relay"):
        import importlib

        return importlib.import_module(f"joulec.passes.{name}")
    raise AttributeError(f"module 'joulec.passes' has no attribute {name!r}")
