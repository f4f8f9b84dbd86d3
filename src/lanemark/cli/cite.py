"""`lanemark cite ID`: the narrowest honest sentence, or what a sentence claims beyond the record."""

from __future__ import annotations

import sys
from typing import Final

from lanemark.cli.admitting import admitted, series_around
from lanemark.cli.asked import one_of
from lanemark.cli.compare import wrapped
from lanemark.cli.parsing import home, parser, print_json, terminal_width
from lanemark.judge.admission import Admitted
from lanemark.judge.citing import Refusal, cite
from lanemark.judge.claim import Overreach
from lanemark.judge.claims import overreaches
from lanemark.judge.sets import Comparison, compare_sets
from lanemark.ledger.location import open_ledger
from lanemark.records.errors import RecordError, UsageError
from lanemark.records.reading import printable

_FORMS: Final = ("plain", "markdown", "badge", "svg")


def main(args: list[str]) -> int:
    """Print the sentence, or check one. Exit 1 when the record supports none, or the sentence overreaches."""
    verb = parser("cite", "Print the narrowest honest sentence that a record supports, or check one.")
    verb.add_argument("id", help="record id, the beginning of one, or a run id")
    verb.add_argument(
        "--format", default="plain", metavar="F",
        help="plain, markdown, badge (JSON for a badge service) or svg (a badge); default plain",
    )  # fmt: skip
    verb.add_argument(
        "--check", default=None, metavar="TEXT", help="say what TEXT claims beyond the record; - reads it"
    )
    verb.add_argument(
        "--against", default=None, metavar="ID", help="with --check: the record TEXT compares this one with"
    )
    verb.add_argument("--vary", action="append", default=[], metavar="FIELD", help="with --against, as in `compare`")
    verb.add_argument(
        "--series", action="store_true", help="with --against: take the other runs of both series as well"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    asked = verb.parse_args(args)
    form = one_of(asked.format, "--format", _FORMS)
    if asked.against is not None and asked.check is None:
        raise UsageError("arguments-invalid", "lanemark cite: --against is for --check", "give the text with --check")
    ledger = open_ledger(home())
    record = admitted(ledger, asked.id)
    if asked.check is not None:
        text = sys.stdin.read() if asked.check == "-" else asked.check
        comparison = None
        if asked.against is not None:
            other = admitted(ledger, asked.against)
            around = [series_around(ledger, one) if asked.series else [one] for one in (other, record)]
            comparison = compare_sets(around[0], around[1], None, asked.vary)
        return _checked(text, record, comparison, as_json=asked.json)
    return _cited(record, form, as_json=asked.json)


def _cited(record: Admitted, form: str, *, as_json: bool) -> int:
    found = cite(record)
    if isinstance(found, Refusal):
        more = len(found.reasons) - 1
        rest = f" (and {more} more)" if more else ""
        raise RecordError(
            "cite-refused",
            f"the record {record.id[:19]} supports no sentence: {found.reasons[0]}{rest}",
            "`lanemark show` says what the record does show",
        )
    if as_json:
        print_json(found.to_json())
    elif form == "badge":
        from lanemark.judge.badge import shields

        print_json(shields(found, record.predicate))
    elif form == "svg":
        from lanemark.judge.badge import svg

        sys.stdout.write(svg(found, record.predicate))
    else:
        print(found.markdown if form == "markdown" else found.sentence)
    return 0


def _checked(text: str, record: Admitted, comparison: Comparison | None, *, as_json: bool) -> int:
    found = overreaches(text, record, comparison)
    if as_json:
        print_json({"record_id": record.id, "text": text, "overreaches": [each.to_json() for each in found]})
        return 1 if found else 0
    if not found:
        print("none of the rules found a claim beyond the record, which is not to say that the sentence is true")
        return 0
    width = terminal_width() or 100
    print("\n".join(_line(each, width) for each in found), flush=True)
    raise RecordError(
        "claim-overreaches",
        f"the sentence claims {len(found)} {'thing' if len(found) == 1 else 'things'} beyond {record.id[:19]}",
        "take the sentence that `lanemark cite` prints",
    )


def _line(each: Overreach, width: int) -> str:
    return wrapped(printable(f"{each.rule}  “{each.words}”: {each.why}"), width)
