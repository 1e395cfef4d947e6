"""What goes wrong with modules of TVM, whichever its version."""


class ImportModuleError(ValueError):
    """A module that cannot be read as a graph; the message says what in it and what to do."""


class BuildError(RuntimeError):
    """A module that could not be turned into a library."""


class TuningRecordsError(ValueError):
    """A log of AutoTVM that cannot be read, or that is of no use to the back end."""
