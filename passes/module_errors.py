"""What goes wrong with modules of TVM, whichever its version."""


class ImportModuleError(ValueError):
    """A module that cannot be read as a graph; the message says what in it and what to do."""


class BuildError(RuntimeError):
    """A module that could not be turned into a library."""
