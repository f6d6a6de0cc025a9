"""The exceptions of tilepress.

Each message says what was wrong, where (file, tensor, value) and what to do next. The command line prints
the message and exits with status 2.
"""


class TilepressError(Exception):
    """Base class of all errors that tilepress raises on purpose."""


class CheckpointError(TilepressError):
    """A checkpoint directory or one of its files is not what it has to be."""


class BitstreamError(TilepressError):
    """Compressed bytes are damaged, or were made by a foreign compressor."""


class QuantizationError(TilepressError):
    """Weights, calibration text or statistics cannot be quantized as asked."""


class JobError(TilepressError):
    """Another process of the job failed, or is gone."""


class UsageError(TilepressError):
    """An option, a device or the installation does not allow what was asked."""


class TilepressWarning(UserWarning):
    """Something that the user should know and that stops nothing. The command line shows it as a note."""
