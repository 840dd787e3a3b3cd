"""The exceptions a user sees: each becomes one line on stderr and a non-zero exit.

Anything else that escapes a command is a bug and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in what the user gave; says what it is about, what was found, what is allowed."""

    exit_code = 2


class ParamsError(UserError):
    """params.yaml holds something unknown, of a wrong type, or out of range."""


class CorpusError(UserError):
    """The raw text is missing, empty, changed, or not valid in its encoding or format."""


class FetchError(UserError):
    """A named corpus or tokenizer file could not be brought here, or its hash differs."""

    exit_code = 1


class TokenFileError(UserError):
    """A token file or its meta.json is missing, cut short, foreign, or of another vocabulary."""


class CheckpointError(UserError):
    """A checkpoint is missing, truncated, foreign, or does not fit the model."""


class DeviceError(UserError):
    """A device or precision was asked for that this machine does not have."""


class TrainingError(UserError):
    """Training cannot go on: the loss is not finite, no memory is left, another trainer runs."""

    exit_code = 1


class ReportError(UserError):
    """A result that the report needs is missing, stale, or was edited by hand."""

    exit_code = 1


class BenchmarkError(UserError):
    """What a benchmark compares with is missing, or failed."""


class SweepError(UserError):
    """A sweep is not described well, cannot be queued, or has no record."""
