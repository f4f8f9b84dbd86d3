"""The error tree. Every error is one sentence that says what happened, to what, and what to do.

    LanemarkError                    carries `slug`, `what`, `remedy`, `exit_code`
    ├── UsageError          exit 2   the request itself cannot be meant
    │   └── DataError       exit 2   data or a file named by the request is missing, truncated or mislabelled
    ├── GateRefused         exit 4   a gate would not start the run; `remedy` is the command that satisfies it
    ├── RunFailed           exit 1   the run ended badly (a record exists and says how)
    ├── SurfaceError        exit 1   the place where a run happens could not be asked; the run itself may be well
    ├── StageError          exit 1   staging did not end in verified data; what was there before is as it was
    ├── RecordError         exit 1   a record cannot be read, or does not verify
    └── LedgerError         exit 1   the ledger or an attempt directory cannot be used

`docs/messages.md` explains every slug in `SLUGS`; a test holds the two together and another proves that each is raised.
"""

from __future__ import annotations

from typing import Final

#: Every slug that may reach a user, with the one line that heads its entry in `docs/messages.md`.
SLUGS: Final[dict[str, str]] = {
    # usage
    "arguments-invalid": "The command line does not parse",
    "preset-unknown": "No preset has that name",
    "surface-unavailable": "That surface cannot be used by this version",
    "nproc-invalid": "The number of ranks must be a positive whole number",
    "mode-invalid": "The distributed mode does not fit the number of ranks",
    "steps-too-few": "Fewer than three steps would be measured",
    "warmup-invalid": "Step 0 may never be measured",
    "gpu-spec-invalid": "The GPU specification does not parse",
    "value-invalid": "An argument has a value that cannot be used",
    "metric-unknown": "The lane has no metric of that name",
    "vary-invalid": "That field cannot be what a question varies",
    "question-unknown": "No lane answers that question",
    "watch-empty": "No record matches, so that there is no series to watch",
    "join-invalid": "There is no attempt that this node could join",
    "matrix-invalid": "The matrix file describes no grid that can be run",
    "against-invalid": "What a run is to be repeated against cannot be meant",
    "cache-source-invalid": "A source of a compile cache is none that can be read",
    "promotion-case-invalid": "No case of the parity matrix has that name",
    "candidate-unknown": "No kernel path has that name",
    "wave-invalid": "A wave of the promotion lane cannot be meant",
    "wave-empty": "A wave of the promotion lane asks for nothing",
    "modal-code-unfit": "The directory of a command cannot go along to a rented box",
    "modal-image-unpinned": "The image to rent is not named by its digest",
    # data
    "data-missing": "The data directory or a shard in it does not exist",
    "data-empty": "The data holds no tokens, or too few for one step",
    "shard-truncated": "A shard is shorter than its header says",
    "shard-mislabelled": "A file is not a token shard of the expected layout",
    "manifest-invalid": "The manifest beside the shards cannot be used",
    "artifacts-invalid": "The list of pinned artifacts cannot be used",
    "artifacts-unpinned": "The source of artifacts pins none of them",
    "manifest-mismatch": "A shard is not the one its manifest describes",
    "vocab-mismatch": "A token id is outside the preset's vocabulary",
    "corpus-empty": "No source files were found to build a corpus from",
    "case-set-invalid": "A case set of the sparse lane cannot be used",
    "indices-invalid": "An index set breaks the contract of the sparse lane",
    # staging
    "stage-source-invalid": "The source cannot be read as a place",
    "stage-credentials-in-url": "A source must not hold credentials",
    "stage-extra-missing": "Staging needs a package that is not installed",
    "stage-unreachable": "The source did not answer in time, or not as storage does",
    "stage-denied": "The source refuses the credentials",
    "stage-empty": "The source holds nothing to stage",
    "stage-changed": "An object was replaced or removed while it was being staged",
    "stage-corrupt": "An object's bytes are not the ones its digest names",
    "stage-short": "An object is shorter than its manifest says",
    "stage-name-hostile": "An object's name must not become a file here",
    "stage-space-short": "There is too little room for the data",
    "stage-busy": "Another process is staging to the same destination",
    "stage-destination": "The destination cannot be used",
    # gates
    "torch-missing": "The training stack needs torch, which this interpreter does not have",
    "gpu-missing": "The requested GPU class is not on this host",
    "command-missing": "The command cannot be found or executed",
    "compiler-missing": "Compiled runs on a CPU need a C++ compiler",
    "disk-short": "There is too little free disk for the attempt",
    "home-unwritable": "The Lanemark home cannot be written",
    "cache-uncovered": "The compile cache does not cover this case",
    "cache-missing": "There is no compile cache directory where one is required",
    "cache-unwritable": "The compile cache directory cannot be written",
    "cache-disk-short": "There is too little free disk for the compile cache",
    "cache-seed-refused": "No layer could seed the compile cache",
    "cache-not-captured": "The compile cache could not be captured",
    "modal-extra-missing": "Renting from Modal needs a package that is not installed",
    "modal-credentials-missing": "There is no Modal token",
    "modal-unreachable": "Modal did not answer in time, or not as Modal does",
    "modal-denied": "Modal refuses the credentials",
    "modal-secret-missing": "Modal knows no Secret of that name",
    # runs
    "run-failed": "The run ended badly; its record says how",
    "run-cancelled": "The run was cancelled; its record says when",
    # records
    "record-missing": "No record has that id",
    "record-ambiguous": "More than one record begins with that id",
    "record-corrupt": "The bytes are not the ones the record is named by",
    "record-malformed": "The file is not strict JSON",
    "record-foreign": "The file is JSON, and not a record of any version",
    "record-unfit": "The record has not the shape that its version defines",
    "record-too-new": "The record was written by a newer major version",
    "record-too-large": "The file is larger than any record may be",
    "cite-refused": "The record supports no sentence of that kind",
    "claim-overreaches": "The sentence claims more than the record shows",
    "plan-mismatch": "The record's case does not hash to its plan digest",
    "evidence-mismatch": "A piece of evidence is not the one the record names",
    "figures-not-derived": "The record's figures do not follow from its own evidence",
    "promotion-refused": "The named records do not support what is said of them",
    "wave-missing": "There is no manifest of that wave",
    "lane-rule-broken": "The record contradicts itself or claims what its lane may not",
    # surfaces
    "surface-unreachable": "The surface could not be asked",
    # signatures and the log
    "cryptography-missing": "Signing and checking signatures need `cryptography`, which this interpreter does not have",
    "key-exists": "A key file exists already",
    "key-exposed": "A private key can be read by others",
    "key-unusable": "A key file cannot be used",
    "signature-missing": "A named key has not signed the record",
    "signature-invalid": "A signature is not the named key's over the record's bytes",
    "signature-conflict": "Another signature file has that name already",
    "log-missing": "The ledger has no log",
    "log-damaged": "The ledger's log contradicts itself",
    "log-entry-missing": "The record is not in the ledger's log",
    "log-inconsistent": "The log does not continue the one of the checkpoint",
    "checkpoint-invalid": "A checkpoint cannot be relied on",
    # ledger
    "attempt-missing": "No attempt has that run id",
    "attempt-unreadable": "The attempt directory cannot be understood",
    "ledger-unwritable": "The ledger cannot be written",
    "ledger-unreadable": "The ledger cannot be read",
    "ledger-location-invalid": "LANEMARK_LEDGER does not name a ledger",
    "ledger-credentials-in-url": "A ledger's location must not hold credentials",
    "ledger-unreachable": "The ledger's storage did not answer in time, or not as storage does",
    "ledger-denied": "The ledger's storage refuses the credentials",
    "team-extra-missing": "A shared ledger needs a package that is not installed",
    "index-unusable": "The shared index cannot be used",
    "import-conflict": "Two different records of one run",
    "tracker-missing": "Exporting to a tracker needs its package, which this interpreter does not have",
    "parquet-missing": "Parquet files need pyarrow, which this interpreter does not have",
    "mds-missing": "MDS files need mosaicml-streaming, which this interpreter cannot import",
    "output-unwritable": "The output file cannot be written",
}


class LanemarkError(Exception):
    """A failure a user is told about: one sentence, what to do, and a slug that `docs/messages.md` explains.

    Args:
        slug: a key of `SLUGS`.
        what: what happened, to what; no full stop at the end.
        remedy: what to do, as an imperative; no full stop at the end.
    """

    exit_code: int = 1

    def __init__(self, slug: str, what: str, remedy: str) -> None:
        assert slug in SLUGS, f"undeclared error slug {slug!r}"
        super().__init__(f"{what}; {remedy}.")
        self.slug = slug
        self.what = what
        self.remedy = remedy


class UsageError(LanemarkError):
    """The request itself cannot be meant: exit 2, nothing was started and nothing is lost."""

    exit_code = 2


class DataError(UsageError):
    """Data or a file that the request names is missing, truncated or mislabelled: exit 2."""


class GateRefused(LanemarkError):  # noqa: N818 - a refusal is not a fault; the name is the field's
    """A gate would not start the run: exit 4, and `remedy` is the command that satisfies it."""

    exit_code = 4


class RunFailed(LanemarkError):  # noqa: N818 - reads as the outcome it reports
    """The run ended badly: exit 1, and a record exists that says how."""


class SurfaceError(LanemarkError):
    """A surface could not be asked about a run: exit 1. Nothing is concluded from that, and the run may go on."""


class StageError(LanemarkError):
    """Staging did not end in verified data: exit 1. The destination is what it was before; another try resumes."""


class RecordError(LanemarkError):
    """A record cannot be read, or does not verify: exit 1."""


class LedgerError(LanemarkError):
    """The ledger or an attempt directory cannot be used: exit 1."""
