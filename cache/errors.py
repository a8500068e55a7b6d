"""The errors `mer` raises on purpose. Each message is one line: what, what is wrong with it, what to do."""


class MerError(Exception):
    """A failure that is told why; the command line prints the message and exits with 1."""


class FormatError(MerError):
    """Raised when a file is not a `mer` file, is of a newer major version, or breaks the format."""


class DamagedError(FormatError):
    """Raised when stored bytes do not match their checksum or a shard is missing or truncated."""


class SpecMismatchError(MerError):
    """Raised when features come from other encoders or settings than the ones asked for."""
